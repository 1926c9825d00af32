"""Of the exit policy: what it accepts is what stem, which reads it as tor does, says it accepts."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from stem.exit_policy import ExitPolicy

from bento.exit_policy import is_accepted

_ports = st.sampled_from(["*", "80", "443", "79-81", "1-65535", "400-500"])
_places = st.sampled_from(["*", "1.2.3.4", "1.2.0.0/16", "*4", "*6", "[2606::]/16", "[2606::1]", "0.0.0.0/0"])
_rules = st.builds("{} {}:{}".format, st.sampled_from(["accept", "reject", "accept6", "reject6"]), _places, _ports)
_addresses = st.sampled_from(["1.2.3.4", "1.2.3.5", "9.9.9.9", "2606::1", "2606::2", "2a00::1"])

# Without its cache, which takes "reject 1.2.3.4:80" for the same as "reject6 1.2.3.4:80", a line that tor ignores.
_can_exit_to: Any = getattr(ExitPolicy.can_exit_to, "__wrapped__")  # noqa: B009 - no type names it


@given(st.lists(_rules, min_size=1, max_size=8), _addresses, st.sampled_from([1, 79, 80, 81, 443, 450, 65535]))
def test_an_address_is_accepted_where_stem_accepts_it(rules: list[str], address: str, port: int) -> None:
    assert is_accepted(",".join(rules), address, port) == _can_exit_to(ExitPolicy(*rules), address, port, strict=True)
