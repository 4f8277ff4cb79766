"""The double of Vault behaves as the documentation of the real one says; hvac drives it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hvac import exceptions
from servers.vault import CANARY, Place, client_of, pod_claims, signed, vaults, write_logins

from rbkit.clock import FakeClock
from rbkit.testing.double import Answer
from rbkit.testing.vault import VaultDouble
from rbkit.testing.vault_access import matches, rank


@pytest.fixture
def place() -> Iterator[Place]:
    """A double with a key-value store, a policy and logins."""
    with vaults("double") as found:
        yield found


@pytest.fixture
def root(place: Place) -> Iterator[Any]:
    """A client that may do everything."""
    with place.root_client() as client:
        yield client


@pytest.fixture
def double(place: Place) -> VaultDouble:
    """The double itself."""
    assert place.double
    return place.double


@pytest.fixture
def clock(place: Place) -> FakeClock:
    """The double's clock."""
    assert isinstance(place.clock, FakeClock)
    return place.clock


def child(place: Place, root: Any, **options: Any) -> dict[str, Any]:
    """Make a child of the root token with the policy of the tests."""
    return root.auth.token.create(**{"policies": [place.policy], "ttl": "1h", **options})["auth"]


def get(place: Place, path: str, token: str = "", method: str = "GET", **more: Any) -> requests.Response:
    """Send one request without hvac."""
    headers = {"X-Vault-Token": token, **more.pop("headers", {})} if token else more.pop("headers", {})
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, f"{place.url}/v1/{path}", headers=headers, **more)


@pytest.mark.parametrize(
    ("state", "status"),
    [("active", 200), ("standby", 429), ("dr_secondary", 472), ("performance_standby", 473), ("uninitialized", 501)],
)
def test_health_tells_the_state_by_its_status(place, double, state, status):
    """As a load balancer reads it."""
    double.state = state
    assert get(place, "sys/health").status_code == status


def test_a_sealed_vault_answers_only_about_its_seal(place, double, root):
    """Everything else is 503, also what needs no token."""
    root.sys.seal()
    assert root.sys.read_seal_status()["sealed"] is True
    assert get(place, "sys/health").status_code == 503
    for path in (f"{place.mount}/data/app/a", "auth/approle/login", "auth/token/lookup-self"):
        answer = get(place, path, place.root)
        assert (answer.status_code, answer.json()) == (503, {"errors": ["Vault is sealed"]})
    with pytest.raises(exceptions.VaultDown):
        root.auth.token.lookup_self()


@pytest.mark.parametrize("status", [412, 429, 473, 500, 502, 503])
def test_failures_are_given_once_each(place, double, status):
    """A test says what goes wrong next; 429 says when to come again."""
    double.failures = [status, Answer(418, "words", {"Content-Type": "text/plain"})]
    answer = get(place, "sys/health")
    assert (
        answer.status_code == status
        and answer.json()["errors"]
        and ("Retry-After" in answer.headers) == (status == 429)
    )
    assert get(place, "sys/health").text == "words"
    assert get(place, "sys/health").status_code == 200


def test_denials_are_worded_as_vault_words_them(place, root):
    """Without a token, with a dead one, and with one that may not."""
    assert get(place, "kv/data/a").json() == {"errors": ["missing client token"]}
    dead = get(place, "kv/data/a", "hvs.dead")
    assert dead.status_code == 403
    assert dead.json() == {"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}
    living = get(place, "kv/data/a", child(place, root)["client_token"])
    assert living.json() == {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "nowhere/at/all", 404), ("GET", "sys/nothing", 404), ("DELETE", "auth/token/create", 405),
     ("GET", "auth/token/nothing", 404), ("PATCH", "kv/data/a", 405)],
)  # fmt: skip
def test_what_there_is_not_is_refused(place, method, path, status):
    """Unknown mounts, paths and methods."""
    assert get(place, path, place.root, method).status_code == status


def test_other_addresses_and_broken_bodies_are_refused(place):
    """Outside `/v1/` there is nothing; a body must be a JSON object."""
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(f"{place.url}/ui/").status_code == 404
    for body in ("{", "[]", "7"):
        assert get(place, "auth/token/create", place.root, "POST", data=body).status_code == 400


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [("kv/a", "kv/a", True), ("kv/a", "kv/ab", False), ("kv/a*", "kv/ab/c", True), ("kv/+/c", "kv/b/c", True),
     ("kv/+/c", "kv/b/x/c", False), ("kv/+", "kv/", False), ("+/a*", "kv/ab", True), ("kv/a.b", "kv/axb", False)],
)  # fmt: skip
def test_paths_of_policies_cover_what_they_say(pattern, path, covered):
    """`+` is one segment, `*` at the end is the rest, everything else is itself."""
    assert matches(pattern, path) is covered


@pytest.mark.parametrize(
    ("higher", "lower"),
    [("kv/a/b", "kv/a/+"), ("kv/a/b", "kv/a/*"), ("kv/a/+", "kv/+/b"), ("kv/a/+", "kv/a/*"), ("kv/+/b", "kv/+/+"),
     ("kv/ab*", "kv/a*"), ("kv/+/b", "kv/+/b*")],
)  # fmt: skip
def test_the_narrower_path_counts(higher, lower):
    """In the order of the documentation: later wildcard, no star, fewer segments, longer."""
    assert rank(higher) > rank(lower)


def test_deny_outweighs_and_policies_add_up(double):
    """On the path that counts, capabilities of several policies are joined; `deny` takes them all away."""
    double.policies.put("a", {"kv/data/*": ["read"], "kv/data/x": ["update"]})
    double.policies.put("b", {"kv/data/*": ["list"], "kv/data/secret": ["deny", "read"]})
    allowed = double.policies.allowed
    assert allowed(["a", "b"], "kv/data/y", "read") and allowed(["a", "b"], "kv/data/y", "list")
    assert not allowed(["a", "b"], "kv/data/x", "read")
    assert not allowed(["a", "b"], "kv/data/secret", "read")
    assert not allowed(["gone"], "kv/data/y", "read") and allowed(["root"], "x", "sudo")


def test_policies_are_written_read_listed_and_deleted(root):
    """In JSON; what is no policy is refused, and the built-in ones stay."""
    assert "default" in root.sys.list_acl_policies()["data"]["keys"]
    body = json.dumps({"path": {"kv/data/a": {"capabilities": ["read"]}}})
    root.sys.create_or_update_acl_policy("p", body, pretty_print=False)
    assert json.loads(root.sys.read_acl_policy("p")["data"]["policy"]) == json.loads(body)
    root.sys.delete_acl_policy("p")
    with pytest.raises(exceptions.InvalidPath):
        root.sys.read_acl_policy("p")
    for wrong in ("", "{", "{}", '{"path": {"a": {}}}', '{"path": {"a": {"capabilities": ["fly"]}}}'):
        with pytest.raises(exceptions.InvalidRequest, match="failed to parse policy"):
            root.sys.create_or_update_acl_policy("p", wrong, pretty_print=False)
    with pytest.raises(exceptions.InvalidRequest):
        root.sys.create_or_update_acl_policy("root", body, pretty_print=False)
    with pytest.raises(exceptions.InvalidRequest):
        root.sys.delete_acl_policy("default")


def test_a_token_says_what_it_is(place, root, clock):
    """Its policies, times, uses and parenthood; by itself, by another, by its accessor without its id."""
    auth = child(place, root, meta={"run": "r"}, explicit_max_ttl="2h", num_uses=5, display_name="x")
    clock.advance(60)
    with client_of(place.url, auth["client_token"]) as own:
        facts = own.auth.token.lookup_self()["data"]
    assert (facts["ttl"], facts["creation_ttl"], facts["explicit_max_ttl"]) == (3540, 3600, 7200)
    assert (facts["meta"], facts["orphan"], facts["display_name"]) == ({"run": "r"}, False, "token-x")
    assert root.auth.token.lookup(auth["client_token"])["data"]["id"] == auth["client_token"]
    assert root.auth.token.lookup_accessor(auth["accessor"])["data"]["id"] == ""
    with pytest.raises(exceptions.Forbidden, match="bad token"):
        root.auth.token.lookup("hvs.none")
    assert root.auth.token.lookup_self()["data"]["expire_time"] is None


def test_a_token_dies_at_its_time(place, root, clock):
    """To the second; afterwards it is invalid."""
    with client_of(place.url, child(place, root, ttl="60s")["client_token"]) as own:
        clock.advance(59)
        assert own.auth.token.lookup_self()["data"]["ttl"] == 1
        clock.advance(1)
        with pytest.raises(exceptions.Forbidden, match="invalid token"):
            own.auth.token.lookup_self()


def test_a_token_of_few_uses_dies_with_the_last(place, root):
    """Each request counts, and it can make no children."""
    auth = child(place, root, num_uses=2, policies=["root"])
    with client_of(place.url, auth["client_token"]) as own:
        with pytest.raises(exceptions.InvalidRequest, match="restricted use token cannot generate child tokens"):
            own.auth.token.create()
        own.auth.token.lookup_self()
        with pytest.raises(exceptions.Forbidden):
            own.auth.token.lookup_self()


def test_renewals_are_capped(place, root, clock):
    """By the explicit maximum; a token that cannot be renewed is not."""
    auth = child(place, root, ttl="60s", explicit_max_ttl="100s")
    assert auth["lease_duration"] == 60
    clock.advance(50)
    renewed = root.auth.token.renew_accessor(auth["accessor"], increment="90s")
    assert renewed["auth"]["lease_duration"] == 50 and renewed["auth"]["client_token"] == "" and renewed["warnings"]
    with client_of(place.url, auth["client_token"]) as own:
        assert own.auth.token.renew_self(increment="10s")["auth"]["lease_duration"] == 10
    assert root.auth.token.renew(auth["client_token"])["auth"]["lease_duration"] == 50
    fixed = child(place, root, renewable=False)
    with pytest.raises(exceptions.InvalidRequest, match="lease is not renewable"):
        root.auth.token.renew(fixed["client_token"])
    with pytest.raises(exceptions.Forbidden):
        root.auth.token.renew("hvs.none")
    with pytest.raises(exceptions.InvalidRequest, match="invalid accessor"):
        root.auth.token.renew_accessor("none")


def test_the_time_to_live_is_capped_with_a_warning(root):
    """By the explicit maximum, and by the system's."""
    made = root.auth.token.create(ttl="2h", explicit_max_ttl="1h")
    assert made["auth"]["lease_duration"] == 3600 and "capped" in made["warnings"][0]
    assert root.auth.token.create(policies=["default"])["auth"]["lease_duration"] == 2_764_800
    periodic = root.auth.token.create(policies=["default"], period="5m")["auth"]
    assert root.auth.token.renew(periodic["client_token"], increment="1h")["auth"]["lease_duration"] == 300


def test_children_get_a_part_of_their_parents_policies(place, root):
    """No more than the parent has; `default` with it unless unwanted; what does not exist is a warning."""
    parent = child(place, root, policies=[place.policy, "default"])
    assert parent["policies"] == sorted([place.policy, "default"])
    with client_of(place.url, parent["client_token"]) as own:
        assert own.auth.token.create()["auth"]["policies"] == parent["policies"]
        assert own.auth.token.create(policies=[place.policy], no_default_policy=True)["auth"]["policies"] == [
            place.policy
        ]
        for wrong, why in (
            ({"policies": ["other"]}, "child policies must be subset of parent"),
            ({"policies": ["root"]}, "subset"),
            ({"no_parent": True}, "create orphan token"),
            ({"period": "5m"}, "create periodic token"),
        ):
            with pytest.raises(exceptions.InvalidRequest, match=why):
                own.auth.token.create(**wrong)
    assert root.auth.token.create(policies=["none-such"])["warnings"] == ['Policy "none-such" does not exist']
    for wrong in (
        {"num_uses": -1},
        {"meta": ["x"]},
        {"id": "x"},
        {"type": "batch"},
        {"ttl": "soon"},
        {"num_uses": "x"},
    ):
        with pytest.raises(exceptions.InvalidRequest):
            root.auth.token.create(**wrong)


def test_default_comes_from_who_has_it(place, root, double):
    """A parent without it hands it on to nobody."""
    double.policies.put("makers", {"auth/token/create": ["update"]})
    bare = child(place, root, policies=["makers"], no_default_policy=True)
    assert bare["policies"] == ["makers"]
    with client_of(place.url, bare["client_token"]) as own:
        assert own.auth.token.create(policies=["makers"])["auth"]["policies"] == ["makers"]
        assert own.auth.token.create()["auth"]["policies"] == ["makers"]


def test_parent_and_child_end_in_the_same_moment(place, root, clock, double):
    """Each ends once, whichever is looked at first."""
    parent = child(place, root, policies=["root"], ttl="60s")
    with client_of(place.url, parent["client_token"]) as own:
        own.auth.token.create(policies=["default"], ttl="60s")
    clock.advance(60)
    root.auth.token.lookup_self()
    assert list(double.tokens.living) == [place.root]


def test_sudo_is_not_root(place, root, double):
    """A token with sudo on the path may hand on any policy, but not root."""
    double.policies.put("makers", {"auth/token/create": ["update", "sudo"]})
    with client_of(place.url, child(place, root, policies=["makers"])["client_token"]) as own:
        assert own.auth.token.create(policies=["other"], no_parent=True)["auth"]["orphan"] is True
        with pytest.raises(exceptions.InvalidRequest, match="without parent token being root"):
            own.auth.token.create(policies=["root"])


def test_children_die_with_their_parent_and_orphans_do_not(place, root):
    """Down to grandchildren; revoke-orphan leaves them alive without a parent."""
    parent = child(place, root, policies=["root"])
    with client_of(place.url, parent["client_token"]) as own:
        first = own.auth.token.create(policies=["root"])["auth"]
        orphan = own.auth.token.create_orphan(policies=["default"])["auth"]
    with client_of(place.url, first["client_token"]) as own:
        grandchild = own.auth.token.create(policies=["default"])["auth"]
    root.auth.token.revoke(parent["client_token"])
    for dead in (first, grandchild):
        with pytest.raises(exceptions.Forbidden):
            root.auth.token.lookup(dead["client_token"])
    assert root.auth.token.lookup(orphan["client_token"])["data"]["orphan"] is True
    with client_of(place.url, orphan["client_token"]) as own:
        own.auth.token.revoke_self()
    kept = child(place, root, policies=["root"])
    with client_of(place.url, kept["client_token"]) as own:
        left = own.auth.token.create(policies=["default"])["auth"]
    root.auth.token.revoke_and_orphan_children(kept["client_token"])
    assert root.auth.token.lookup(left["client_token"])["data"]["orphan"] is True
    with pytest.raises(exceptions.InvalidRequest, match="not found"):
        root.auth.token.revoke_and_orphan_children("hvs.none")


def test_revoking_twice_is_no_error(place, root, double):
    """An unknown accessor is a warning, an unknown token nothing; a missing one is wrong."""
    auth = child(place, root)
    assert root.auth.token.revoke_accessor(auth["accessor"]).status_code == 204
    again = root.auth.token.revoke_accessor(auth["accessor"])
    assert again["warnings"] == ["No token found with this accessor"]
    assert root.auth.token.revoke(auth["client_token"]).status_code == 204
    for path in ("revoke-accessor", "revoke", "lookup-accessor"):
        assert get(place, f"auth/token/{path}", place.root, "POST", json={}).status_code == 400
    double.policies.put("weak", {"auth/token/revoke-orphan": ["update"]})
    weak = child(place, root, policies=["weak"])["client_token"]
    assert get(place, "auth/token/revoke-orphan", weak, "POST", json={"token": weak}).status_code == 400


def test_a_wrapped_answer_is_opened_once(place, root):
    """Its token says where it was made, opens it, and is over."""
    made = root.auth.token.create(policies=["default"], wrap_ttl="60s")
    info = made["wrap_info"]
    assert made["auth"] is None and info["ttl"] == 60 and info["creation_path"] == "auth/token/create"
    looked = root.adapter.post("/v1/sys/wrapping/lookup", json={"token": info["token"]})
    assert looked["data"]["creation_path"] == "auth/token/create" and looked["data"]["creation_ttl"] == 60
    with client_of(place.url, info["token"]) as holder:
        inner = holder.sys.unwrap()
        assert inner["auth"]["accessor"] == info["wrapped_accessor"]
        with pytest.raises(exceptions.InvalidRequest, match="wrapping token is not valid or does not exist"):
            holder.sys.unwrap()


def test_a_wrapping_can_be_opened_by_somebody_else_and_wrapped_anew(place, root):
    """Whoever has a login of his own names it in the body; without any token nothing is opened."""
    info = root.sys.wrap({"a": CANARY}, ttl=60)["wrap_info"]
    anew = root.adapter.post("/v1/sys/wrapping/rewrap", json={"token": info["token"]})["wrap_info"]
    assert get(place, "sys/wrapping/unwrap", "", "POST", json={"token": anew["token"]}).status_code == 400
    assert get(place, "sys/wrapping/unwrap", "", "POST", json={}).json() == {"errors": ["missing client token"]}
    assert root.sys.unwrap(anew["token"])["data"] == {"a": CANARY}
    with pytest.raises(exceptions.InvalidRequest):
        root.sys.unwrap(info["token"])
    assert get(place, "sys/wrapping/wrap", place.root, "POST", json={"a": 1}).status_code == 400


def test_a_wrapping_ends_at_its_time(place, root, clock):
    """Who comes too late finds nothing; an answer without content is not wrapped."""
    info = root.sys.wrap({"a": 1}, ttl="1m")["wrap_info"]
    clock.advance(60)
    with pytest.raises(exceptions.InvalidRequest):
        root.sys.unwrap(info["token"])
    headers = {"X-Vault-Wrap-TTL": "60"}
    auth = child(place, root)
    body = {"accessor": auth["accessor"]}
    assert get(place, "auth/token/revoke-accessor", place.root, "POST", json=body, headers=headers).status_code == 204


def test_secrets_have_versions(place, root):
    """Each write is one; older ones are read by number, until there are more than ten."""
    kv = root.secrets.kv.v2
    for number in range(1, 13):
        kv.create_or_update_secret("app/a", {"n": number}, mount_point=place.mount)
    read = {"path": "app/a", "mount_point": place.mount, "raise_on_deleted_version": True}
    assert kv.read_secret_version(**read)["data"]["data"] == {"n": 12}
    assert kv.read_secret_version(version=3, **read)["data"]["metadata"]["version"] == 3
    for number in (1, 2, 99):
        with pytest.raises(exceptions.InvalidPath):
            kv.read_secret_version(version=number, **read)
    assert kv.read_secret_metadata("app/a", mount_point=place.mount)["data"]["current_version"] == 12
    assert get(place, f"{place.mount}/data/app/a?version=x", place.root).status_code == 400


def test_a_write_can_demand_the_version_it_saw(place, root):
    """Zero means that there must be none."""
    kv = root.secrets.kv.v2
    kv.create_or_update_secret("app/b", {"n": 1}, cas=0, mount_point=place.mount)
    with pytest.raises(exceptions.InvalidRequest, match="check-and-set parameter did not match"):
        kv.create_or_update_secret("app/b", {"n": 2}, cas=0, mount_point=place.mount)
    kv.create_or_update_secret("app/b", {"n": 2}, cas=1, mount_point=place.mount)
    with pytest.raises(exceptions.InvalidRequest, match="no data provided"):
        kv.create_or_update_secret("app/b", None, mount_point=place.mount)


def test_deleted_versions_are_told_and_brought_back(place, root):
    """404 with the time of the deletion; destroyed ones stay gone, forgotten ones never were."""
    kv, mount = root.secrets.kv.v2, {"mount_point": place.mount}
    read = {"path": "app/c", "raise_on_deleted_version": True, **mount}
    kv.create_or_update_secret("app/c", {"n": 1}, **mount)
    kv.delete_latest_version_of_secret("app/c", **mount)
    with pytest.raises(exceptions.InvalidPath) as caught:
        kv.read_secret_version(**read)
    assert caught.value.json["data"]["metadata"]["deletion_time"].startswith("2026-01-01T")
    kv.undelete_secret_versions("app/c", [1], **mount)
    assert kv.read_secret_version(**read)["data"]["data"] == {"n": 1}
    kv.delete_secret_versions("app/c", [1], **mount)
    kv.destroy_secret_versions("app/c", [1], **mount)
    with pytest.raises(exceptions.InvalidPath) as caught:
        kv.read_secret_version(**read)
    assert caught.value.json["data"]["metadata"]["destroyed"] is True
    kv.delete_metadata_and_all_versions("app/c", **mount)
    with pytest.raises(exceptions.InvalidPath):
        kv.read_secret_metadata("app/c", **mount)
    kv.delete_latest_version_of_secret("app/never", **mount)
    assert get(place, f"{place.mount}/delete/app/c", place.root, "POST", json={}).status_code == 400


def test_folders_are_listed(place, root):
    """Names, and folders with a slash; by LIST and by `list=true`."""
    kv = root.secrets.kv.v2
    for path in ("app/a", "app/b/c", "top"):
        kv.create_or_update_secret(path, {"n": 1}, mount_point=place.mount)
    assert kv.list_secrets("", mount_point=place.mount)["data"]["keys"] == ["app/", "top"]
    assert kv.list_secrets("app", mount_point=place.mount)["data"]["keys"] == ["a", "b/"]
    listed = get(place, f"{place.mount}/metadata/app/?list=true", place.root)
    assert listed.json()["data"]["keys"] == ["a", "b/"]
    with pytest.raises(exceptions.InvalidPath):
        kv.list_secrets("none", mount_point=place.mount)


def test_creating_and_updating_are_two_capabilities(place, root, double):
    """Who may only create does not overwrite."""
    double.policies.put("makers", {f"{place.mount}/data/*": ["create"]})
    with client_of(place.url, child(place, root, policies=["makers"])["client_token"]) as own:
        own.secrets.kv.v2.create_or_update_secret("x", {"n": 1}, mount_point=place.mount)
        with pytest.raises(exceptions.Forbidden):
            own.secrets.kv.v2.create_or_update_secret("x", {"n": 2}, mount_point=place.mount)


def test_credentials_end_with_their_lease_or_their_token(place, root, double, clock):
    """The account is there while somebody holds it: until its time, a revocation, or the end of the token."""
    double.database.role("readers", 60, 100)
    made = root.secrets.database.generate_credentials("readers")
    user = made["data"]["username"]
    assert double.database.accounts[user] == made["data"]["password"] and made["lease_duration"] == 60
    clock.advance(50)
    assert root.sys.read_lease(made["lease_id"])["data"]["ttl"] == 10
    assert root.sys.renew_lease(made["lease_id"], 90)["lease_duration"] == 50
    clock.advance(50)
    with pytest.raises(exceptions.InvalidRequest, match="invalid lease"):
        root.sys.read_lease(made["lease_id"])
    assert user not in double.database.accounts
    with pytest.raises(exceptions.InvalidRequest, match="lease not found"):
        root.sys.renew_lease(made["lease_id"])
    second = root.secrets.database.generate_credentials("readers")
    root.sys.revoke_lease(second["lease_id"])
    root.sys.revoke_lease(second["lease_id"])
    holder = child(place, root)
    with client_of(place.url, holder["client_token"]) as own:
        own.secrets.database.generate_credentials("readers")
    assert len(double.database.accounts) == 1
    root.auth.token.revoke_accessor(holder["accessor"])
    assert double.database.accounts == {} == double.tokens.leases
    with pytest.raises(exceptions.InvalidRequest, match="unknown role"):
        root.secrets.database.generate_credentials("none")
    assert get(place, "sys/leases/revoke", place.root, "PUT", json={}).status_code == 400


def test_an_approle_logs_in_with_its_secret(place, root, clock):
    """Wrong, over and used-up secrets are refused in one and the same way."""
    own = root.auth.approle
    own.create_or_update_approle(
        "few", token_policies=[place.policy], secret_id_num_uses=2, secret_id_ttl="60s", token_ttl="5m",
        token_num_uses=3, mount_point=place.approle,
    )  # fmt: skip
    role = own.read_role_id("few", mount_point=place.approle)["data"]["role_id"]
    secret = own.generate_secret_id("few", mount_point=place.approle)["data"]["secret_id"]
    login = {"use_token": False, "mount_point": place.approle}
    auth = own.login(role, secret, **login)["auth"]
    assert auth["lease_duration"] == 300 and auth["num_uses"] == 3 and auth["metadata"] == {"role_name": "few"}
    own.login(role, secret, **login)
    late = own.generate_secret_id("few", mount_point=place.approle)["data"]["secret_id"]
    clock.advance(60)
    for wrong in ((role, secret), (role, late), (role, "x"), ("x", late), (place.role_id, late)):
        with pytest.raises(exceptions.InvalidRequest, match="invalid role or secret ID"):
            own.login(*wrong, **login)
    with pytest.raises(exceptions.InvalidRequest, match="missing role_id"):
        own.login("", "x", **login)
    third = own.generate_secret_id("few", mount_point=place.approle)["data"]["secret_id"]
    own.destroy_secret_id("few", third, mount_point=place.approle)
    with pytest.raises(exceptions.InvalidRequest):
        own.login(role, third, **login)
    with pytest.raises(exceptions.InvalidRequest, match="does not exist"):
        own.generate_secret_id("none", mount_point=place.approle)
    with pytest.raises(exceptions.InvalidPath):
        own.read_role_id("none", mount_point=place.approle)
    assert own.read_role("few", mount_point=place.approle)["data"]["secret_id_num_uses"] == 2


NOW = FakeClock().now().timestamp()


def jwt_login(place: Place, token: str, mount: str = "jwt", role: str = "pods") -> requests.Response:
    """Log in with a signed token."""
    return get(place, f"auth/{mount}/login", "", "POST", json={"role": role, "jwt": token})


def test_a_signed_token_logs_in(place):
    """With what its role gives."""
    write_logins(place)
    for mount in ("jwt", "kubernetes"):
        auth = jwt_login(place, signed(pod_claims(NOW)), mount).json()["auth"]
        assert auth["policies"] == sorted(["default", place.policy]) and auth["lease_duration"] == 600


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "missing token"),
        ("a.b", "malformed jwt"),
        ("a.b.c", "malformed jwt"),
        (signed(pod_claims(NOW), head={"alg": "none"}), "unsupported algorithm"),
        (signed(pod_claims(NOW), head={"typ": "JWT"}), "malformed jwt"),
        (signed([1]), "no known key"),
        (signed(pod_claims(NOW), head={"alg": "RS256"}), "no known key"),
        (signed(pod_claims(NOW), key=Ed25519PrivateKey.generate()), "no known key"),
        (signed(pod_claims(NOW, exp=NOW - 61)), "token is expired"),
        (signed(pod_claims(NOW, exp=None, iat=NOW - 300, nbf=None)), "token is expired"),
        (signed(pod_claims(NOW, nbf=NOW + 61)), "not valid yet"),
        (signed(pod_claims(NOW, exp=None, iat=None, nbf=None)), "no issued at"),
        (signed(pod_claims(NOW, aud=["other"])), "invalid audience"),
        (signed(pod_claims(NOW, aud=None)), "invalid audience"),
        (signed(pod_claims(NOW, sub=None)), 'claim "sub" not found'),
    ],
)
def test_a_signed_token_that_is_not_good_is_refused(place, token, why):
    """Form, signature, times, audience, user."""
    write_logins(place)
    answer = jwt_login(place, token)
    assert answer.status_code == 400 and why in answer.json()["errors"][0]


def test_roles_bind_subject_and_claims(place, root):
    """By text or by pattern; a role that binds nothing is not written."""
    write_logins(place)
    make = {"user_claim": "sub", "allowed_redirect_uris": [], "role_type": "jwt", "bound_audiences": ["vault"]}
    root.auth.jwt.create_role("exact", bound_subject="me", **make)
    root.auth.jwt.create_role("team", bound_claims={"groups": ["sre", "ops"]}, **make)
    root.adapter.post(
        "/v1/auth/jwt/role/glob", json={**make, "bound_claims": {"groups": "sr*"}, "bound_claims_type": "glob"}
    )
    assert "subject" in jwt_login(place, signed(pod_claims(NOW)), role="exact").json()["errors"][0]
    assert jwt_login(place, signed(pod_claims(NOW, sub="me")), role="exact").status_code == 200
    for role, groups, status in (
        ("team", ["x", "ops"], 200),
        ("team", "sr", 400),
        ("team", None, 400),
        ("glob", "sre", 200),
    ):
        assert jwt_login(place, signed(pod_claims(NOW, groups=groups)), role=role).status_code == status
    root.adapter.post("/v1/auth/jwt/role/noaud", json={"user_claim": "sub", "bound_subject": "me"})
    assert "no audiences bound" in jwt_login(place, signed(pod_claims(NOW)), role="noaud").json()["errors"][0]
    for wrong in ({"user_claim": "sub"}, {"bound_subject": "me"}):
        with pytest.raises(exceptions.InvalidRequest):
            root.adapter.post("/v1/auth/jwt/role/wrong", json=wrong)
    assert jwt_login(place, signed(pod_claims(NOW)), role="none").status_code == 400
    assert jwt_login(place, signed(pod_claims(NOW)), role="").json() == {"errors": ["missing role"]}
    assert root.auth.jwt.read_role("exact")["data"]["bound_subject"] == "me"


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 200),
        ({"kubernetes.io": {"namespace": "other", "serviceaccount": {"name": "rbkit"}}}, 403),
        ({"kubernetes.io": {"namespace": "runbooks", "serviceaccount": {"name": "other"}}}, 403),
        ({"kubernetes.io": None}, 403),
        ({"aud": ["other"]}, 403),
        ({"exp": NOW - 100}, 400),
    ],
)
def test_a_pod_logs_in_as_its_service_account(place, changed, status):
    """Namespace, name and audience decide."""
    write_logins(place)
    assert jwt_login(place, signed(pod_claims(NOW, **changed)), "kubernetes").status_code == status


def test_a_role_of_pods_names_them(place, root):
    """Without names or namespaces it would let every pod in."""
    for wrong in ({"bound_service_account_names": "*"}, {"bound_service_account_namespaces": "*"}):
        with pytest.raises(exceptions.InvalidRequest):
            root.adapter.post("/v1/auth/kubernetes/role/wrong", json=wrong)
    assert jwt_login(place, "x", "kubernetes", "").status_code == 400
    assert jwt_login(place, "x", "kubernetes", "none").status_code == 400


def test_rsa_keys_sign_too(place, root):
    """As clusters do."""
    import base64

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_logins(place)
    root.auth.jwt.configure(jwt_validation_pubkeys=[pem.decode()])
    said = signed(pod_claims(NOW), head={"alg": "RS256"}).rpartition(".")[0]
    seal = base64.urlsafe_b64encode(key.sign(said.encode(), PKCS1v15(), hashes.SHA256())).rstrip(b"=").decode()
    assert jwt_login(place, f"{said}.{seal}").status_code == 200
    assert jwt_login(place, f"{said}.{seal[:-4]}AAAA").status_code == 400


def test_namespaces_keep_things_apart(place, root, double):
    """Mounts and tokens of a namespace are its own; a token from above goes down with its whole path allowed."""
    root.adapter.post("/v1/sys/namespaces/team", json={})
    with client_of(place.url, place.root, "team") as team:
        team.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
        team.sys.enable_auth_method("approle", path="approle")
        team.secrets.kv.v2.create_or_update_secret("a", {"n": 1}, mount_point="kv")
        double.policies.put("here", {"kv/data/*": ["read"]})
        double.policies.put("above", {"team/kv/data/*": ["read"]})
        inside = team.auth.token.create(policies=["here"])["auth"]["client_token"]
        with pytest.raises(exceptions.InvalidRequest, match="already in use"):
            team.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    read = {"path": "a", "mount_point": "kv", "raise_on_deleted_version": True}
    with pytest.raises(exceptions.InvalidPath):
        root.secrets.kv.v2.read_secret_version(**read)
    above = child(place, root, policies=["above"])["client_token"]
    for token in (inside, above):
        with client_of(place.url, token, "team") as own:
            assert own.secrets.kv.v2.read_secret_version(**read)["data"]["data"] == {"n": 1}
    with client_of(place.url, inside) as own, pytest.raises(exceptions.Forbidden):
        own.secrets.kv.v2.read_secret_version(**read)
    with client_of(place.url, place.root, "none") as lost, pytest.raises(exceptions.InvalidPath):
        lost.auth.token.lookup_self()


def test_only_what_the_double_knows_is_mounted(root):
    """A test that needs more is told."""
    with pytest.raises(exceptions.InvalidRequest, match="plugin not found"):
        root.sys.enable_auth_method("ldap")
    with pytest.raises(exceptions.InvalidRequest, match="plugin not found"):
        root.sys.enable_secrets_engine("kv", path="old", options={"version": "1"})
    root.sys.enable_secrets_engine("kv-v2", path="new")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, exceptions.RateLimitExceeded), (500, exceptions.InternalServerError), (502, exceptions.BadGateway)],
)
def test_hvac_raises_its_own_errors(double, root, status, kind):
    """Each status becomes the exception that the library documents."""
    double.failures = [status]
    with pytest.raises(kind):
        root.auth.token.lookup_self()
