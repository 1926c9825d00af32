"""Use boxes: find one, run functions there, talk with them.

    async with bento.Client() as client:
        async with client.spawn("hello.py") as function:
            print(await function.call("hello", "world"))
            async with function.invoke("count", 10) as invocation:
                async for chunk in invocation:
                    print(chunk)

`Client` a user on a Tor network; `Instance` a running function at a box, `Function` one that a block spawns and ends,
`Deployed` what is remembered of one that outlives its command; `Invocation` one call. The agent, one process for each
user, keeps Bento's own tor and the circuits.
"""

from bento.client.client import Client
from bento.client.function import Function
from bento.client.instance import Instance
from bento.client.invocation import Invocation
from bento.client.records import Deployed

__all__ = ["Client", "Deployed", "Function", "Instance", "Invocation"]
