"""The private network that is up: circuits, names, web, safeguards, programs inside it."""

import http.client
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from stem.control import Controller

from bento.errors import UsageError
from bento.testnet import Network, RelayStatus
from bento.tor.process import start_tor
from tests.network import dial

# What a node's GETCONF may differ in from a live tor's, and why.
PLACES = {
    "address", "contactinfo", "controlport", "cookieauthentication", "datadirectory", "geoipfile", "geoipv6file",
    "nickname", "orport", "outboundbindaddress", "socksport",
    "controlportlines", "orportlines", "socksportlines",
}  # fmt: skip
MEMBERSHIP = {"dirauthority", "testingtornetwork"}
TIMING = {
    "clientbootstrapconsensusauthoritydownloadinitialdelay",
    "learncircuitbuildtimeout",
    "minuptimehidservdirectoryv2",
    "testingauthdirtimetolearnreachability",
    "testingbridgedownloadinitialdelay",
    "testingclientmaxintervalwithoutrequest",
    "testingdirconnectionmaxstall",
    "testingmintimetoreportbandwidth",
    # Read by authorities alone.
    "testingv3authinitialdistdelay", "testingv3authinitialvotedelay", "testingv3authinitialvotinginterval",
    "v3authdistdelay", "v3authvotedelay", "v3authvotinginterval",
}  # fmt: skip
PUBLISHES_AT_ONCE = {"assumereachable"}  # a relay tests itself over circuits, and there is no consensus yet
AUTHORITY = {
    "authoritativedirectory", "v3authoritativedirectory", "dirport", "dirportlines", "downloadextrainfo",
    "testingv3authvotingstartoffset",
    "testingdirauthvoteguard", "testingdirauthvotehsdir", "testingminexitflagthreshold", "testingminfastflagthreshold",
}  # fmt: skip
EXIT = {"exitrelay", "exitpolicy"}  # as any operator of an exit sets them
BOX_RELAY = EXIT | {"exitpolicyrejectprivate", "serverdnsresolvconffile"}  # what a live Bento sets
BENTO_PROXY = {"hiddenservicedir", "hiddenserviceport", "hiddenserviceoptions", "__owningcontrollerprocess"}  # the same
BENTO_CLIENT = {"clientonly", "clientdnsrejectinternaladdresses", "confluxenabled"}  # what a live Bento sets


def configuration(control: Path | str) -> Mapping[str, str]:
    """Every option that this tor has, as GETCONF gives it."""
    with Controller.from_socket_file(str(control)) as controller:
        controller.authenticate()
        names = [line.split()[0] for line in controller.get_info("config/names").splitlines() if line.strip()]
        return {name.lower(): str(controller.msg(f"GETCONF {name}")).partition("=")[2] for name in names}


@pytest.fixture(scope="session")
def live(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The configuration of a tor started without TestingTorNetwork or anything else."""
    directory = tmp_path_factory.mktemp("live")
    run = Path(network.status().client.socks).parent.parent / "live"  # type: ignore[union-attr]
    tor = start_tor(["DisableNetwork 1", "SocksPort 0"], data=directory, sockets=run)
    try:
        tor.wait_for_control()
        return configuration(tor.control)
    finally:
        tor.stop()


def differing(control: str, live: Mapping[str, str]) -> set[str]:
    found = configuration(control)
    assert found.keys() == live.keys()
    assert len(found) > 300
    return {name for name in live if found[name] != live[name]} - {"disablenetwork"}


def box_relays(network: Network) -> list[RelayStatus]:
    return [relay for relay in network.status().relays if relay.box]


def client_socks(network: Network) -> str:
    client = network.status().client
    assert client
    return client.socks


def get(stream: socket.socket, host: str, path: str = "/") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host)
    connection.sock = stream
    with closing(connection):
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()


def is_dialled(socks: str, host: str, port: int) -> bool:
    try:
        dial(socks, host, port, timeout_s=15).close()
    except OSError:
        return False
    return True


def is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as stream:
        return stream.connect_ex(path) == 0


def wait_until(is_done: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not is_done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_relays_keep_tors_live_safeguards(network: Network, live: Mapping[str, str]) -> None:
    for relay in network.status().relays:
        allowed = PLACES | MEMBERSHIP | TIMING | PUBLISHES_AT_ONCE
        if relay.nickname == "authority":
            allowed |= AUTHORITY
        elif relay.box:
            allowed |= BOX_RELAY
        elif relay.nickname in ("r0", "r1", "r2"):
            allowed |= EXIT
        assert differing(relay.control, live) - allowed == set(), relay.nickname


def test_clients_keep_tors_live_safeguards(network: Network, live: Mapping[str, str], tmp_path: Path) -> None:
    client = network.status().client
    assert client
    allowed = PLACES | MEMBERSHIP | TIMING | BENTO_CLIENT
    assert differing(client.control, live) - allowed == set()
    with network.agent_tor(tmp_path) as tor:
        assert differing(tor.control, live) - allowed == set()


def test_box_proxies_keep_tors_live_safeguards(network: Network, live: Mapping[str, str]) -> None:
    for relay in box_relays(network):
        assert relay.box
        control = Path(relay.control).parents[1] / relay.box.name.replace("box", "b") / "onion" / "control"
        assert differing(str(control), live) - (PLACES | MEMBERSHIP | TIMING | BENTO_PROXY) == set()


def test_the_comparison_sees_a_safeguard_that_is_off(network: Network, live: Mapping[str, str]) -> None:
    relay = network.status().relays[1]
    with Controller.from_socket_file(relay.control) as controller:
        controller.authenticate()
        controller.set_conf("EnforceDistinctSubnets", "0")
        try:
            assert "enforcedistinctsubnets" in differing(relay.control, live)
        finally:
            controller.reset_conf("EnforceDistinctSubnets")
            controller.set_conf("EnforceDistinctSubnets", "1")


def test_a_page_comes_over_a_circuit_of_three_distinct_relays(network: Network) -> None:
    client = network.status().client
    assert client
    with Controller.from_socket_file(client.control) as controller:
        controller.authenticate()
        with dial(client.socks, "demo.test", 80, user="page") as stream:
            [circuit] = [c for c in controller.get_circuits() if c.socks_username == "page"]
            hops = [fingerprint for fingerprint, _ in circuit.path]
            status, body = get(stream, "demo.test")
    assert (status, b"<html" in body) == (200, True)
    assert len(hops) == len(set(hops)) == 3
    assert {relay.fingerprint for relay in network.status().relays} >= set(hops)


def test_https_has_a_certificate_of_the_networks_ca(network: Network) -> None:
    context = ssl.create_default_context(cafile=network.status().ca)
    stream = dial(client_socks(network), "any.name.test", 443)
    with context.wrap_socket(stream, server_hostname="any.name.test") as secure:
        assert get(secure, "any.name.test")[0] == 200
    stranger = ssl.create_default_context()
    with (
        dial(client_socks(network), "any.name.test", 443) as stream,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        stranger.wrap_socket(stream, server_hostname="any.name.test")


def test_a_site_is_served_as_soon_as_it_is_named(network: Network, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 8192)
    network.site("site.test", tmp_path)
    stream = dial(client_socks(network), "site.test", 80)
    assert get(stream, "site.test", "/big") == (200, (tmp_path / "big").read_bytes())
    with pytest.raises(UsageError, match=r"ends in \.test"):
        network.site("site.com", tmp_path)


def test_names_outside_test_do_not_resolve(network: Network) -> None:
    with pytest.raises(ConnectionRefusedError):
        dial(client_socks(network), "example.com", 80)


def test_an_exit_dials_no_internal_address_and_no_relay(network: Network) -> None:
    """A relay's own ORPort is there for those inside: that it is refused is the exit's doing."""
    address = network.status().relays[1].address
    probe = f"import socket; socket.create_connection(({address!r}, 9001), 5)"
    assert network.exec([sys.executable, "-c", probe]).returncode == 0
    for host, port in ((address, 9001), ("127.0.0.1", 53), ("46.64.53.53", 9030)):
        with pytest.raises(ConnectionRefusedError):
            dial(client_socks(network), host, port)


def test_each_state_directory_has_a_tor_of_its_own_while_it_is_held(network: Network, tmp_path: Path) -> None:
    with network.agent_tor(tmp_path / "one") as one, network.agent_tor(tmp_path / "other") as other:
        assert one.data != other.data
        with dial(one.socks, "demo.test", 80) as stream:
            assert get(stream, "demo.test")[0] == 200
        with pytest.raises(UsageError, match="taken by another agent"), network.agent_tor(tmp_path / "one"):
            pass
    wait_until(lambda: not is_listening(one.socks), 5)
    with network.agent_tor(tmp_path / "one") as again:
        assert again.data == one.data


def test_programs_inside_see_the_network_and_pass_their_status_on(network: Network, tmp_path: Path) -> None:
    script = "pwd; cat /etc/resolv.conf; ls /proc | grep -c '^[0-9]'; cat; exit 7"
    command = network.command(["sh", "-c", script])
    done = subprocess.run(command, input="from stdin", capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 7
    assert lines[0] == str(Path.cwd())
    assert lines[1] == "nameserver 46.64.53.53"
    assert 8 < int(lines[2]) < 100
    assert lines[3] == "from stdin"
    assert network.exec(["no-such-program"], capture_output=True).returncode == 127


def test_names_resolve_for_programs_inside_and_the_host_has_no_part_in_it(network: Network) -> None:
    script = "import socket; print(socket.gethostbyname('demo.test'), socket.if_nameindex())"
    done = network.exec([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "46.86.80.80 [(1, 'lo')]\n"
    host = Path("/proc/self/ns/net").readlink()
    assert host != Path(f"/proc/{network.supervisor_pid}/ns/net").readlink()


def test_the_box_list_has_every_boxs_descriptor_and_no_other(network: Network) -> None:
    text = Path(network.status().box_list).read_text()
    relays = box_relays(network)
    assert text.count("\nrouter-signature\n") == text.count("\ncontact bento:1;") == len(relays)
    for relay in relays:
        assert f"router {relay.nickname} {relay.address} 9001" in text
        assert relay.box
        assert f"addr={relay.box.address}:{relay.box.port};onion={relay.box.onion};" in text


def test_boxes_listen_and_their_pids_are_the_hosts(network: Network) -> None:
    for relay in box_relays(network):
        assert relay.box
        assert relay.box.pid
        assert relay.box.config in Path(f"/proc/{relay.box.pid}/cmdline").read_text()
        probe = f"import socket; socket.create_connection(({relay.box.address!r}, {relay.box.port}), 5)"
        assert network.exec([sys.executable, "-c", probe]).returncode == 0


def test_a_boxs_onion_service_answers(network: Network) -> None:
    """Its key was made before its tor, so that the relay could name it."""
    box = box_relays(network)[0].box
    assert box
    host = f"{box.onion}.onion"
    wait_until(lambda: is_dialled(client_socks(network), host, 80), 60)
