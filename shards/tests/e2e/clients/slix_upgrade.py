"""Two clients who talk while the broker is upgraded twice, with slixmpp's stream management (XEP-0198): each resumes, and has
all that the other sent, once and in order.

usage: slix_upgrade.py STARTTLS-PORT PASSWORD USER OTHER COMMAND-THAT-UPGRADES…
"""

import asyncio
import sys

from slix_base import PATIENCE, PORT, Base

USER, OTHER, *UPGRADE = sys.argv[3:]
UPGRADES, BETWEEN, PAUSE = 2, 0.4, 0.005


class Client(Base):
    """A client that numbers what it says, and connects again whenever its connection is gone."""

    def __init__(self, user, peer):
        super().__init__(user, "slix")
        self.register_plugin("xep_0198")
        self.peer, self.sent, self.got, self.leaving = f"{peer}@localhost/slix", 0, [], False
        self.begun, self.resumed, self.up = 0, 0, asyncio.Event()
        self.add_event_handler("message", lambda message: self.got.append(int(message["body"])))
        self.add_event_handler("session_start", self.on_start)
        self.add_event_handler("session_resumed", self.on_resumed)
        self.add_event_handler("disconnected", self.on_disconnected)

    def on_start(self, _):
        self.begun += 1
        self.up.set()

    def on_resumed(self, _):
        self.resumed += 1
        self.up.set()

    def on_disconnected(self, _):
        self.up.clear()
        if not self.leaving:
            self.connect("127.0.0.1", PORT)

    async def talk(self, stop):
        """Says something whenever there is a session. What is said without one, slixmpp 1.17 sends before what it has to send
        again; and what is said after the end of the stream and before `disconnected`, it loses."""
        while not stop.is_set():
            if self.up.is_set() and not self.transport.is_closing():
                self.send_message(self.peer, str(self.sent), mtype="chat")
                self.sent += 1
            await asyncio.sleep(PAUSE)

    async def has(self, what):
        end = asyncio.get_running_loop().time() + PATIENCE
        while not what():
            assert asyncio.get_running_loop().time() < end, f"{self.boundjid}: {self.resumed} {self.sent} {self.got}"
            await asyncio.sleep(PAUSE)


async def main():
    clients = [await Client(*pair).open() for pair in ((USER, OTHER), (OTHER, USER))]
    for client in clients:
        await client.has(lambda: client.plugin["xep_0198"].sm_id)
    stop = asyncio.Event()
    talks = [asyncio.create_task(client.talk(stop)) for client in clients]
    for number in range(UPGRADES):
        await asyncio.sleep(BETWEEN)
        upgrade = await asyncio.create_subprocess_exec(*UPGRADE)
        assert await asyncio.wait_for(upgrade.wait(), PATIENCE) == 0
        for client in clients:
            await client.has(lambda: client.resumed > number and client.up.is_set())
    await asyncio.sleep(BETWEEN)
    stop.set()
    await asyncio.gather(*talks)
    for client, other in (clients, clients[::-1]):
        await client.has(lambda: len(client.got) >= other.sent)
        assert client.got == list(range(other.sent)), client.got
        assert (client.begun, client.resumed) == (1, UPGRADES), (client.begun, client.resumed)
    for client in clients:
        client.leaving = True
        await client.disconnect()


asyncio.run(asyncio.wait_for(main(), 4 * PATIENCE))
