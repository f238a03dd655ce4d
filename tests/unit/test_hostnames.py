"""The names of containers that are registered for other hosts."""

import pytest

from ovn_docker.hostnames import fitting


@pytest.mark.parametrize("name", ["web", "WEB", "web.foo", "Web.Foo"])
def test_label_is_registered_alone_and_below_its_network(name: str) -> None:
    assert list(fitting([name], "Foo")) == ["web"]


@pytest.mark.parametrize("name", ["a", "proj_db_1", "x-1", "6f", "a" * 63, "c8bdc9953b88", "123456789012"])
def test_names_that_docker_generates_are_registered(name: str) -> None:
    assert list(fitting([name], "foo")) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("google.com", "api.example.test", "web.bar", "a.b.foo", "host.docker.internal", ".foo", "foo."),
        *("localhost", "LOCALHOST", "x.localhost", "wpad", "isatap", "localhost.foo", "wpad.foo"),
        *("10.0.0.5", "10", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "fe80::1", "10.foo"),
        *(
            "2.0.0.10.in-addr.arpa",
            "arpa.",
            "a.ip6.arpa",
            "",
            "-web",
            "web-",
            "w\u00e9b",
            "a b",
            "a\n",
            "a" * 64,
        ),
    ],
)
def test_invalid_names_and_names_with_another_meaning_are_not_registered(name: str) -> None:
    assert list(fitting([name], "foo")) == []


@pytest.mark.parametrize(
    ("name", "network"),
    [("host", "docker.internal"), ("1", "1.10.in-addr.arpa"), ("web", "localhost"), ("10", "0.0.5")],
)
def test_name_that_the_networks_suffix_makes_ambiguous_is_not_registered(name: str, network: str) -> None:
    assert list(fitting([name], network)) == []
