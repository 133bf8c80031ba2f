"""What a Sentinel URL says. That it leads to the primary, and to the next one, is shown in `tests/chaos/test_failover.py`."""

import pytest

from rt.redis import Store
from rt.sentinel import parse_sentinel_url
from rt.settings import BadSettings, load_settings


def test_a_url_names_the_sentinels_the_service_and_the_database() -> None:
    known = parse_sentinel_url("redis+sentinel://one:26380,two,[::1]:1,[::2]/main/3")
    assert known.sentinels == [("one", 26380), ("two", 26379), ("::1", 1), ("::2", 26379)]
    assert known.service == "main"
    assert known.server == {"db": 3, "username": None, "password": None}


def test_the_database_is_the_first_one_unless_it_is_named() -> None:
    assert parse_sentinel_url("redis+sentinel://one/main").server["db"] == 0


def test_credentials_are_the_servers() -> None:
    known = parse_sentinel_url("redis+sentinel://ann:p%40ss%2F@one/main/0")
    assert known.server == {"db": 0, "username": "ann", "password": "p@ss/"}
    assert known.asking.keys() == {"socket_timeout", "socket_connect_timeout"}
    assert parse_sentinel_url("redis+sentinel://:word@one/main").server["username"] is None


def test_the_sentinels_may_have_credentials_of_their_own() -> None:
    known = parse_sentinel_url("redis+sentinel://ann:one@one/main?sentinel_username=bob&sentinel_password=t%26wo%2B")
    assert (known.server["username"], known.server["password"]) == ("ann", "one")
    assert (known.asking["username"], known.asking["password"]) == ("bob", "t&wo+")


def test_tls_is_to_the_servers_and_to_the_sentinels() -> None:
    options = {"ssl_ca_certs": "/etc/ca.pem", "ssl_cert_reqs": "none", "ssl_check_hostname": False}
    known = parse_sentinel_url("rediss+sentinel://one/main?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none&ssl_check_hostname=false")
    for connection in (known.server, known.asking):
        assert {name: value for name, value in connection.items() if name.startswith("ssl")} == {"ssl": True, **options}
    assert "ssl" not in parse_sentinel_url("redis+sentinel://one/main").server


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis+sentinel://", "it names no Sentinel;"),
        ("redis+sentinel:///main", "it names no Sentinel;"),
        ("redis+sentinel://,/main", "it names no Sentinel;"),
        ("redis+sentinel://one", "it names no service;"),
        ("redis+sentinel://one/", "it names no service;"),
        ("redis+sentinel://one,:5/main", "Sentinel 2 has no host;"),
        ("redis+sentinel://one:x/main", "the port of Sentinel 1 is not a number"),
        ("redis+sentinel://one,two:/main", "the port of Sentinel 2 is not a number"),
        ("redis+sentinel://one:65536/main", "the port of Sentinel 1 is not a number from 1 to 65535;"),
        ("redis+sentinel://one:0/main", "the port of Sentinel 1 is not a number from 1 to 65535;"),
        ("redis+sentinel://one/main/zero", "is not the number of a database;"),
        ("redis+sentinel://one/main/0/1", "is not the number of a database;"),
        ("redis+sentinel://one/main?db=1", "it has an option that is none of sentinel_username,"),
        ("redis+sentinel://one/main?ssl_ca_certs=x", "ssl_ca_certs is for rediss+sentinel://;"),
        ("rediss+sentinel://one/main?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of required, optional, none;"),
        ("rediss+sentinel://one/main?ssl_check_hostname=1", "ssl_check_hostname is one of true, false;"),
    ],
)
async def test_a_url_that_cannot_be_read_names_the_variable_and_what_is_wrong(url: str, what: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Store.of(load_settings(REDIS_URL=url))
    assert str(refused.value).startswith("REDIS_URL: ")
    assert what in str(refused.value)
    assert "a Sentinel URL looks like redis+sentinel://host:26379,host:26379/service/0" in str(refused.value)


@pytest.mark.parametrize("password", ["hunter/2", "/hunter2", "hunter?2", "hunter#2", "1/hunter2", "hunter2&?="])
def test_a_password_that_was_not_escaped_is_not_repeated(password: str) -> None:
    with pytest.raises(ValueError, match="in a password / is %2F") as refused:
        parse_sentinel_url(f"redis+sentinel://:{password}@one:26379/main/0")
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["http://", "redis-sentinel://", "sentinel://", ""])
async def test_another_scheme_is_refused_with_those_that_there_are(scheme: str) -> None:
    with pytest.raises(BadSettings, match=r"REDIS_URL must begin with redis://.*redis\+sentinel:// or rediss\+sentinel://"):
        Store.of(load_settings(REDIS_URL=f"{scheme}one/main"))


async def test_a_store_knows_its_database() -> None:
    store = Store.of(load_settings(REDIS_URL="redis+sentinel://one/main/3"))
    assert store.db == 3
    await store.close()
