"""Settings: read once, strictly, and never quoted."""

import pytest
from pydantic import SecretStr, ValidationError

from rt.keys import KINDS
from rt.redis import Store
from rt.settings import DAY_S, BadSettings, Retention, Settings, load_settings, sources

SECRET = "0123456789abcdef" * 2


def test_every_setting_has_a_default_that_passes_its_own_check() -> None:
    settings = load_settings()
    for name, field in Settings.model_fields.items():
        assert not field.is_required(), name
    assert Settings.model_validate({name: getattr(settings, name) for name in Settings.model_fields if name not in ("redis_url", "port")})


def test_hosts_set_redis_url_and_port_under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://h/1")
    monkeypatch.setenv("PORT", "5000")
    assert (load_settings().redis_url, load_settings().port) == ("redis://h/1", 5000)
    monkeypatch.setenv("REDIS_TLS_URL", "rediss://h/1")  # a host that offers both means this one
    assert load_settings().redis_url == "rediss://h/1"
    monkeypatch.setenv("RT_REDIS_URL", "unix:///s")
    monkeypatch.setenv("RT_PORT", "6000")
    assert (load_settings().redis_url, load_settings().port) == ("unix:///s", 6000)


def test_everything_else_is_rt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_LEASE_S", "3.5")
    monkeypatch.setenv("RT_DEFLATE", "true")
    monkeypatch.setenv("QUEUE", "not ours")
    settings = load_settings()
    assert (settings.lease_s, settings.deflate, settings.queue) == (3.5, True, "arq:queue")


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_MAX_JOBS", "5")
    monkeypatch.setenv("REDIS_URL", "redis://h/1")
    settings = load_settings(max_jobs=7, REDIS_URL="redis://other")
    assert (settings.max_jobs, settings.redis_url) == (7, "redis://other")


def test_an_unknown_setting_is_an_error_that_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_LEASES", "3")
    monkeypatch.setenv("RT_ZZZZZZ", "3")
    with pytest.raises(BadSettings) as error:
        load_settings()
    assert str(error.value) == "RT_LEASES is no setting; did you mean RT_LEASE_S?; RT_ZZZZZZ is no setting"


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_LEASE_S", "soon")
    monkeypatch.setenv("RT_MAX_JOBS", "0")
    monkeypatch.setenv("PORT", "99999")
    with pytest.raises(BadSettings) as error:
        load_settings()
    text = str(error.value)
    assert "RT_LEASE_S: " in text
    assert "RT_MAX_JOBS: " in text
    assert "PORT: " in text


def test_a_short_secret_is_refused_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SECRET", "hunter2-hunter2")
    with pytest.raises(BadSettings, match=r"RT_SECRET: .*at least 32 bytes") as error:
        load_settings()
    assert "hunter2" not in str(error.value)


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SECRET", SECRET)
    monkeypatch.setenv("RT_OPENAI_API_KEY", "sk-very-private")
    settings = load_settings()
    assert settings.secret == SecretStr(SECRET)
    assert SECRET not in repr(settings)
    assert "sk-very-private" not in repr(settings)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]


def test_each_kind_of_stream_has_its_retention() -> None:
    settings = load_settings(job_length=5, job_age_s=6)
    assert settings.retention("job") == Retention(5, 6)
    assert settings.retention("session").age_s == DAY_S
    assert all(settings.retention(kind).length > 0 for kind in KINDS)


def test_the_source_of_each_setting_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://h/1")
    monkeypatch.setenv("RT_LEASE_S", "3")
    found = sources()
    assert found.keys() == Settings.model_fields.keys()
    assert (found["redis_url"], found["lease_s"], found["port"]) == ("REDIS_URL", "RT_LEASE_S", "default")


@pytest.mark.parametrize("url", ["", "http://h", "h:6379", "rediss+cluster://h"])
def test_a_url_that_is_no_redis_is_refused_at_start(url: str) -> None:
    with pytest.raises(BadSettings, match="REDIS_URL"):
        Store.of(load_settings(REDIS_URL=url))
