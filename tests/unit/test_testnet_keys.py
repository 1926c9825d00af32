"""Keys that exist before the tor that uses them."""

import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from bento.testnet.keys import authority_keys, certificate_authority, onion_address, onion_service


def test_an_onion_address_is_that_of_its_key() -> None:
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert onion_address(public) == "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid"


def test_an_onion_service_has_its_key_in_tors_format(tmp_path: Path) -> None:
    address = onion_service(tmp_path / "service")
    secret = (tmp_path / "service/hs_ed25519_secret_key").read_bytes()
    public = (tmp_path / "service/hs_ed25519_public_key").read_bytes()
    assert secret[:32] == b"== ed25519v1-secret: type0 ==\0\0\0"
    assert public[:32] == b"== ed25519v1-public: type0 ==\0\0\0"
    assert (len(secret), len(public)) == (96, 64)
    assert onion_address(public[32:]) == address
    assert (tmp_path / "service").stat().st_mode & 0o077 == 0
    assert onion_service(tmp_path / "service") == address


def test_the_ca_stays_the_same(tmp_path: Path) -> None:
    first = certificate_authority(tmp_path / "ca.pem").cert_pem.bytes()
    assert certificate_authority(tmp_path / "ca.pem").cert_pem.bytes() == first == (tmp_path / "ca.pem").read_bytes()
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


@pytest.mark.needs("tor")
def test_tor_takes_the_onion_service_key(tmp_path: Path) -> None:
    """Tor itself derives the address from the secret key alone."""
    address = onion_service(tmp_path / "service")
    (tmp_path / "service/hostname").unlink()
    torrc = tmp_path / "torrc"
    torrc.write_text(
        f"DataDirectory {tmp_path}/data\nDisableNetwork 1\nSocksPort 0\n"
        f"HiddenServiceDir {tmp_path}/service\nHiddenServicePort 80\n"
    )
    command = ["tor", "-f", str(torrc), "--defaults-torrc", "/dev/null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tor:
        assert tor.stdout
        for line in tor.stdout:
            if (tmp_path / "service/hostname").exists() or "[err]" in line:
                break
        tor.terminate()
    assert (tmp_path / "service/hostname").read_text() == f"{address}.onion\n"


@pytest.mark.needs("tor")
def test_the_authoritys_keys_stay_the_same_until_the_certificate_nears_its_end(tmp_path: Path) -> None:
    now_s = time.time()
    first = authority_keys(tmp_path, "45.64.33.10:9030", now_s=now_s)
    assert authority_keys(tmp_path, "45.64.33.10:9030", now_s=now_s) == first
    later = authority_keys(tmp_path, "45.64.33.10:9030", now_s=now_s + 725 * 24 * 3600)
    assert later.fingerprint == first.fingerprint
    assert later.v3ident != first.v3ident


def test_ed25519_seeds_and_tors_expanded_keys_have_the_same_public_key() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert key.public_key().public_bytes_raw().hex().startswith("d75a980182b10ab7")
