"""Use boxes: find one, run functions there, talk with them.

    async with bento.Client() as client:
        async with client.spawn("hello.py") as function:
            print(await function.call("hello", "world"))
            async with function.invoke("count", 10) as invocation:
                async for chunk in invocation:
                    print(chunk)

`Client` a user on a Tor network; `Function` an instance at a box; `Invocation` one call of it. The agent, one process
for each user, keeps Bento's own tor and the circuits.
"""

from bento.client.client import Client
from bento.client.function import Function
from bento.client.invocation import Invocation

__all__ = ["Client", "Function", "Invocation"]
