"""Variables of each generation of openrc.sh become a login for openstacksdk."""

import pytest

from ovn_docker.backends.neutron import openrc
from ovn_docker.errors import BadRequest

GUIDE = {
    "OS_AUTH_URL": "http://10.33.75.122:5000/v2.0",
    "OS_TENANT_ID": "fab106b215d943c3bad519492278443d",
    "OS_TENANT_NAME": "demo",
    "OS_USERNAME": "demo",
    "OS_VIF_ID": "e798c371-85f4-4f2d-ad65-d09dd1d3c1c9",
}
"""The guide's file, which is older than Keystone v3."""


def test_login_of_the_guides_file_is_one_of_keystone_v3() -> None:
    assert openrc.login(GUIDE) == {
        "auth_url": "http://10.33.75.122:5000",
        "auth_type": "password",
        "project_id": "fab106b215d943c3bad519492278443d",
        "project_name": "demo",
        "username": "demo",
        "default_domain_id": "default",
    }
    assert openrc.vif(GUIDE) == "e798c371-85f4-4f2d-ad65-d09dd1d3c1c9"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://k:5000/v2.0", "http://k:5000"),
        ("http://k:5000/v2.0/", "http://k:5000"),
        ("https://k/identity/v2.0", "https://k/identity"),
        ("http://k:5000/v3", "http://k:5000/v3"),
        ("http://k:5000", "http://k:5000"),
    ],
)
def test_the_version_2_is_removed_from_keystones_address(url: str, base: str) -> None:
    assert openrc.login(GUIDE | {"OS_AUTH_URL": url})["auth_url"] == base


def test_the_variable_with_api_version_2_is_ignored() -> None:
    assert "identity_api_version" not in openrc.login(GUIDE | {"OS_IDENTITY_API_VERSION": "2.0"})
    assert openrc.login(GUIDE | {"OS_IDENTITY_API_VERSION": "3"})["identity_api_version"] == "3"


def test_a_project_has_precedence_over_a_tenant() -> None:
    assert openrc.login(GUIDE | {"OS_PROJECT_ID": "p"})["project_id"] == "p"


def test_a_login_with_domains_is_unchanged() -> None:
    horizon = {
        "OS_AUTH_URL": "https://k:5000",
        "OS_PROJECT_ID": "p",
        "OS_PROJECT_NAME": "demo",
        "OS_USER_DOMAIN_NAME": "Corp",
        "OS_PROJECT_DOMAIN_ID": "abc",
        "OS_USERNAME": "me",
        "OS_PASSWORD": "secret",
        "OS_REGION_NAME": "RegionOne",
        "OS_INTERFACE": "public",
        "OS_IDENTITY_API_VERSION": "3",
    }
    assert openrc.login(horizon) == {
        "auth_url": "https://k:5000",
        "auth_type": "password",
        "project_id": "p",
        "project_name": "demo",
        "user_domain_name": "Corp",
        "project_domain_id": "abc",
        "username": "me",
        "password": "secret",
        "region_name": "RegionOne",
        "interface": "public",
        "identity_api_version": "3",
    }


def test_the_domain_of_the_user_or_the_project_is_used_for_both() -> None:
    login = openrc.login(GUIDE | {"OS_USER_DOMAIN_NAME": "Corp"})
    assert login["project_domain_name"] == "Corp"
    assert "default_domain_id" not in login


def test_an_application_credential_needs_no_project() -> None:
    given = {
        "OS_AUTH_URL": "https://k:5000/v3",
        "OS_APPLICATION_CREDENTIAL_ID": "id",
        "OS_APPLICATION_CREDENTIAL_SECRET": "secret",
    }
    login = openrc.login(given)
    assert login == {
        "auth_url": "https://k:5000/v3",
        "auth_type": "v3applicationcredential",
        "application_credential_id": "id",
        "application_credential_secret": "secret",
    }
    assert openrc.user_without_password(login) is None


@pytest.mark.parametrize("name", ["OS_TOKEN", "OS_AUTH_TOKEN"])
def test_a_token_needs_no_user(name: str) -> None:
    login = openrc.login({"OS_AUTH_URL": "http://k:5000", "OS_PROJECT_ID": "p", name: "gAAA"})
    assert (login["auth_type"], login["token"]) == ("token", "gAAA")
    assert openrc.user_without_password(login) is None


def test_a_cloud_of_clouds_yaml_is_passed_to_openstacksdk() -> None:
    login = openrc.login({"OS_CLOUD": "mine", "OS_USERNAME": "ignored"})
    assert login == {"cloud": "mine"}
    assert openrc.user_without_password(login) is None


def test_a_missing_password_is_reported_with_its_user() -> None:
    assert openrc.user_without_password(openrc.login(GUIDE)) == "demo"
    assert openrc.user_without_password(openrc.login(GUIDE | {"OS_PASSWORD": ""})) == "demo"
    assert openrc.user_without_password(openrc.login(GUIDE | {"OS_PASSWORD": "x"})) is None


@pytest.mark.parametrize("missing", ["OS_AUTH_URL", "OS_USERNAME"])
def test_a_missing_variable_is_named(missing: str) -> None:
    given = {key: value for key, value in GUIDE.items() if key != missing}
    with pytest.raises(BadRequest, match=rf"{missing} is not set: source the openrc\.sh"):
        openrc.login(given)


def test_a_missing_project_is_reported_with_all_its_variables() -> None:
    given = {key: value for key, value in GUIDE.items() if "TENANT" not in key}
    with pytest.raises(BadRequest, match="neither OS_PROJECT_ID nor OS_PROJECT_NAME"):
        openrc.login(given)


@pytest.mark.parametrize(
    ("vif", "what"),
    [("", "is not set"), ("eth0", "'eth0' is not a UUID"), ("e798c371", "'e798c371' is not a UUID")],
)
def test_a_missing_or_invalid_vm_port_is_reported_with_where_to_find_it(vif: str, what: str) -> None:
    with pytest.raises(BadRequest, match=rf"^OS_VIF_ID {what}: .*openstack port list --mac-address"):
        openrc.vif(GUIDE | {"OS_VIF_ID": vif})


def test_variables_of_another_openrc_are_ignored() -> None:
    """keystoneauth refuses a token or an application credential together with a user."""
    sourced = GUIDE | {"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_ID": "default"}
    token = openrc.login(sourced | {"OS_TOKEN": "t"})
    assert token["auth_type"] == "token"
    assert not {name for name in token if name.startswith(("user", "password"))}
    secret = {"OS_APPLICATION_CREDENTIAL_SECRET": "s"}
    by_id = openrc.login(sourced | secret | {"OS_APPLICATION_CREDENTIAL_ID": "a", "OS_PASSWORD": "p"})
    assert not {name for name in by_id if name.startswith(("user", "password", "project"))}
    by_name = openrc.login(sourced | secret | {"OS_APPLICATION_CREDENTIAL_NAME": "a"})
    assert by_name["username"] == "demo"
    assert not {name for name in by_name if name.startswith("project")}
