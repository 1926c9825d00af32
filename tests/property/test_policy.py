"""Of the decision: a grant never exceeds policy or manifest; a narrower policy never admits more."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bento.manifest import Manifest
from bento.policy import Grant, Policy, decide

_AMOUNTS = ("memory_bytes", "cpu_s", "wall_s", "storage_bytes", "buffer_bytes", "egress_bytes")
_amount = st.integers(1, 2**40)
_buffer = st.integers(64 * 1024, 2**40)
_destinations = st.sampled_from(["*:80", "*:443", "a.test:80", "*.test:1-65535", "1.2.3.0/24:22", "[::1]:25", "*:*"])
_rules = st.sampled_from(
    ["accept *:80", "accept *:443", "reject *:80", "accept 1.2.3.4:22", "reject *:*", "accept *:*"]
)
_manifests = st.builds(
    Manifest,
    image=st.sampled_from(["python", "browser"]),
    memory_bytes=_amount,
    cpu_s=_amount,
    wall_s=_amount | st.none(),
    storage_bytes=_amount,
    buffer_bytes=_buffer,
    egress=st.lists(_destinations, max_size=3).map(tuple),
    egress_bytes=_amount,
)
_policies = st.builds(
    Policy,
    images=st.sampled_from([("python",), ("python", "browser"), ()]),
    memory_bytes=_amount,
    cpu_s=_amount,
    wall_s=_amount,
    lease_s=_amount,
    storage_bytes=_amount,
    buffer_bytes=_buffer,
    instances=st.integers(1, 9),
    egress=st.lists(_rules, max_size=4).map(tuple),
    egress_bytes=_amount,
)


@given(_manifests, _policies, st.integers(0, 9), st.integers(1, 2**31))
def test_a_grant_never_exceeds_policy_or_manifest(
    manifest: Manifest, policy: Policy, instances: int, lease_s: int
) -> None:
    decision = decide(manifest, policy, instances=instances, lease_s=lease_s)
    if isinstance(decision, Grant):
        for rule in _AMOUNTS:
            assert getattr(decision, rule) <= getattr(policy, rule)
            assert getattr(decision, rule) <= (getattr(manifest, rule) or 2**53)
        assert set(decision.egress) <= set(manifest.egress)
        assert (decision.egress_bytes > 0) == bool(manifest.egress)
        assert instances < policy.instances
        assert lease_s <= policy.lease_s
    else:
        assert decision


@given(_manifests, _policies, st.sampled_from([*_AMOUNTS, "lease_s", "instances"]), st.integers(1, 2**40))
def test_a_narrower_policy_never_admits_more(manifest: Manifest, policy: Policy, rule: str, amount: int) -> None:
    narrower = msgspec.structs.replace(policy, **{rule: min(amount, getattr(policy, rule))})
    if isinstance(decide(manifest, narrower, instances=0), Grant):
        assert isinstance(decide(manifest, policy, instances=0), Grant)


@given(_manifests)
def test_a_manifest_survives_its_round_trip(manifest: Manifest) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(manifest), type=Manifest) == manifest
