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
    assert parse_sentinel_url("redis+sentinel://ann:p%40ss%2F@one/main/0").server == {"db": 0, "username": "ann", "password": "p@ss/"}
    assert parse_sentinel_url("redis+sentinel://:word@one/main").server["username"] is None


@pytest.mark.parametrize("rest", ["", "one", "one/", "/main", "one:x/main", "one/main/zero", "one/main/0/1", "one/main?db=1"])
async def test_a_url_that_cannot_be_read_is_refused_and_names_the_variable(rest: str) -> None:
    with pytest.raises(BadSettings, match="REDIS_URL: "):
        Store.of(load_settings(REDIS_URL=f"redis+sentinel://{rest}"))


async def test_a_store_knows_its_database() -> None:
    store = Store.of(load_settings(REDIS_URL="redis+sentinel://one/main/3"))
    assert store.db == 3
    await store.close()
