"""A private Tor network of real tor processes, on one machine and cut off from any other.

    from bento.testnet import Network

    with Network("/tmp/mynet") as network:
        print(network.status().client.socks)                        # a unix socket; tor circuits behind it
        network.site("hello.test", "/srv/hello")                    # any folder under any name
        network.exec(["ip", "route", "show", "table", "local"])     # any program inside

One directory authority and five relays, each at a public-looking address in a /16 of its own, with tor's live
safeguards on; the web under *.test on ports 80 and 443; boxes if asked for. Keys and consensus stay in the directory:
the first start takes about 11 s, later ones 2 to 3 s. Several networks can be up at once.

    Network       the network of a directory: start, stop, status, site, exec, command, agent_tor
    BoxPlan       what one box and its relay are to be like
    Status        what is up: RelayStatus, BoxStatus, ClientStatus
"""

from bento.testnet.layout import BoxPlan
from bento.testnet.network import Network, default_directory
from bento.testnet.status import AgentTor, BoxStatus, ClientStatus, RelayStatus, Status

__all__ = [
    "AgentTor",
    "BoxPlan",
    "BoxStatus",
    "ClientStatus",
    "Network",
    "RelayStatus",
    "Status",
    "default_directory",
]
