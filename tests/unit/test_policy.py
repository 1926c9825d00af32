import pytest
from msgspec.structs import replace

from bento.errors import ConfigError
from bento.manifest import Manifest
from bento.policy import Grant, Policy, decide


def test_the_default_manifest_fits_the_default_policy() -> None:
    assert isinstance(decide(Manifest(), Policy(), instances=0), Grant)


def test_a_refusal_lists_every_broken_rule_with_what_to_do() -> None:
    manifest = Manifest(
        image="browser",
        memory_bytes=2**40,
        cpu_s=10**6,
        wall_s=10**9,
        storage_bytes=2**40,
        buffer_bytes=2**40,
        egress=("*:25", "*:80"),
        egress_bytes=2**40,
        tor=("onion_service",),
        conclave="sgx",
    )
    refusals = decide(manifest, Policy(), instances=64, lease_s=10**9)
    assert not isinstance(refusals, Grant)
    assert [refusal.rule for refusal in refusals] == [
        "memory_bytes", "cpu_s", "wall_s", "storage_bytes", "buffer_bytes", "egress_bytes", "lease_s", "image",
        "conclave", "tor", "egress", "instances",
    ]  # fmt: skip
    assert all(refusal.hint for refusal in refusals)
    assert refusals[0].text == f"memory_bytes: asked for {2**40}, this box grants {512 * 2**20}"


@pytest.mark.parametrize("rule", ["memory_bytes", "cpu_s", "wall_s", "storage_bytes", "buffer_bytes", "egress_bytes"])
def test_a_limit_admits_its_edge_and_not_one_more(rule: str) -> None:
    limit = getattr(Policy(), rule)
    edge = Manifest(egress=("*:80",), **{rule: limit})
    assert isinstance(decide(edge, Policy(), instances=0), Grant)
    assert not isinstance(decide(replace(edge, **{rule: limit + 1}), Policy(), instances=0), Grant)


def test_a_function_without_egress_asks_for_no_egress_bytes() -> None:
    grant = decide(Manifest(), Policy(egress_bytes=1), instances=0)
    assert isinstance(grant, Grant)
    assert grant.egress_bytes == 0
    refusals = decide(Manifest(egress=("*:80",)), Policy(egress_bytes=1), instances=0)
    assert not isinstance(refusals, Grant)
    assert [refusal.rule for refusal in refusals] == ["egress_bytes"]


def test_no_wall_time_asks_for_as_long_as_the_box_grants() -> None:
    grant = decide(Manifest(), Policy(wall_s=77), instances=0)
    assert isinstance(grant, Grant)
    assert grant.wall_s == 77


def test_a_policy_with_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a rule"):
        Policy(egress=("allow all",))
