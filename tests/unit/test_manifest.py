import pytest

from bento.errors import ManifestError
from bento.manifest import Destination, Manifest, parse_manifest


def test_a_source_without_a_block_asks_for_the_defaults() -> None:
    assert parse_manifest(b"def hello():\n    pass\n") == Manifest()


def test_a_block_is_read_wherever_it_stands() -> None:
    source = b'"""Doc."""\n# /// bento\n# memory_bytes = 134_217_728\n#\n# egress = ["*.test:80"]\n# ///\nx = 1\n'
    assert parse_manifest(source) == Manifest(memory_bytes=128 * 2**20, egress=("*.test:80",))


def test_a_block_with_windows_line_ends_is_read() -> None:
    assert parse_manifest(b"# /// bento\r\n# cpu_s = 5\r\n# ///\r\n").cpu_s == 5


def test_other_tools_blocks_are_left_alone() -> None:
    assert parse_manifest(b"# /// script\n# dependencies = []\n# ///\n") == Manifest()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"# ram = 5\n", "unknown field `ram`"),
        (b"# cpu_s = 0\n", "`int` >= 1"),
        (b"# cpu_s = -1\n", "`int` >= 1"),
        (b'# cpu_s = "5"\n', "Expected `int`"),
        (b"# cpu_s = 1.5\n", "Expected `int`"),
        (b"# cpu_s =\n", "does not fit"),
        (b'# egress = ["example.org"]\n', "not a destination"),
        (b'# egress = ["example.org:0"]\n', "not a range of ports"),
        (b'# egress = ["example.org:90-80"]\n', "not a range of ports"),
        (b'# egress = ["example.org:65536"]\n', "not a range of ports"),
        (b'# conclave = "yes"\n', "Invalid enum value"),
    ],
)
def test_refuses_a_manifest_that_does_not_fit(body: bytes, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        parse_manifest(b"# /// bento\n" + body + b"# ///\n")


def test_refuses_a_block_that_is_not_closed() -> None:
    with pytest.raises(ManifestError, match="not closed"):
        parse_manifest(b"# /// bento\n# cpu_s = 5\nx = 1\n")


def test_refuses_two_blocks() -> None:
    block = b"# /// bento\n# cpu_s = 5\n# ///\n"
    with pytest.raises(ManifestError, match="2 manifests"):
        parse_manifest(block + b"\n" + block)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "covered"),
    [
        ("*:80", "anything.test", 80, True),
        ("*:80", "anything.test", 81, False),
        ("*:*", "x", 65535, True),
        ("a.test:80", "A.TEST.", 80, True),
        ("a.test:80", "b.a.test", 80, False),
        ("*.test:80", "a.test", 80, True),
        ("*.test:80", "test", 80, False),
        ("*.test:80", "eviltest", 80, False),
        ("1.2.3.0/24:22", "1.2.3.4", 22, True),
        ("1.2.3.0/24:22", "1.2.4.4", 22, False),
        ("1.2.3.0/24:22", "host.test", 22, False),
        ("[2001:db8::/32]:443", "2001:db8::1", 443, True),
    ],
)
def test_destinations_cover_what_they_name(pattern: str, host: str, port: int, covered: bool) -> None:
    assert Destination.parse(pattern).is_for(host, port) is covered
