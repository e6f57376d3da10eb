"""Drives the broker with aioxmpp: usage aio.py STARTTLS-PORT DIRECT-PORT PASSWORD USER… (the last one is disabled)."""

import asyncio
import itertools
import sys

import aiosasl
import aioxmpp
import aioxmpp.connector
import aioxmpp.disco
import aioxmpp.dispatcher
import aioxmpp.ping
import aioxmpp.presence
import aioxmpp.roster
import aioxmpp.version

STARTTLS, DIRECT = int(sys.argv[1]), int(sys.argv[2])
PASSWORD, USERS, DISABLED = sys.argv[3], sys.argv[4:-1], sys.argv[-1]
PATIENCE = 20
LOCALHOST = aioxmpp.JID.fromstr("localhost")


class Client:
    """A client and what it received."""

    def __init__(self, user, resource, direct=False, password=PASSWORD):
        connector = aioxmpp.connector.XMPPOverTLSConnector() if direct else aioxmpp.connector.STARTTLSConnector()
        peer = ("127.0.0.1", DIRECT if direct else STARTTLS, connector)
        self.node = aioxmpp.PresenceManagedClient(
            aioxmpp.JID.fromstr(f"{user}@localhost/{resource}"),
            aioxmpp.make_security_layer(password, no_verify=True),
            override_peer=[peer],
            max_initial_attempts=1,
        )
        self.messages, self.presences = asyncio.Queue(), asyncio.Queue()
        self.failure = asyncio.get_running_loop().create_future()
        self.node.on_failure.connect(self.failed)
        dispatcher = self.node.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
        dispatcher.register_callback(None, None, self.messages.put_nowait)
        presences = self.node.summon(aioxmpp.presence.PresenceClient)
        presences.on_available.connect(lambda jid, stanza: self.noted((str(jid), True)))
        presences.on_unavailable.connect(lambda jid, stanza: self.noted((str(jid), False)))
        self.node.summon(aioxmpp.ping.PingService)
        self.roster = self.node.summon(aioxmpp.RosterClient)

    def noted(self, what):
        self.presences.put_nowait(what)

    def failed(self, error):
        if not self.failure.done():
            self.failure.set_result(error)

    async def open(self):
        self.using = self.node.connected()
        self.stream = await asyncio.wait_for(self.using.__aenter__(), PATIENCE)
        return self

    async def close(self):
        await self.using.__aexit__(None, None, None)

    def send(self, to, text):
        message = aioxmpp.Message(type_=aioxmpp.MessageType.CHAT, to=to)
        message.body[None] = text
        return self.stream.send(message)

    async def body(self):
        return (await asyncio.wait_for(self.messages.get(), PATIENCE)).body.any()

    async def presence(self, jid, available=True):
        while await asyncio.wait_for(self.presences.get(), PATIENCE) != (str(jid), available):
            pass


async def refused(user, password):
    client = Client(user, "x", password=password)
    try:
        await client.open()
    except (aiosasl.AuthenticationFailure, OSError) as error:
        return " ".join(map(repr, [error, *getattr(error, "exceptions", [])]))
    raise AssertionError(f"{user} was let in")


async def main():
    clients = [await Client(user, "desk", direct=bool(at % 2)).open() for at, user in enumerate(USERS)]
    for one, other in itertools.permutations(clients, 2):
        for to in (other.node.local_jid, other.node.local_jid.bare()):
            text = f"{one.node.local_jid} → {to}: <&> ünï🦀"
            await one.send(to, text)
            assert await other.body() == text

    anna, bert = clients[:2]
    friend = bert.node.local_jid.bare()
    await asyncio.wait_for(anna.roster.set_entry(friend, name="Bert", add_to_groups={"Friends"}), PATIENCE)
    entry = anna.roster.items[friend]
    assert (entry.name, set(entry.groups)) == ("Bert", {"Friends"}), entry
    await asyncio.wait_for(anna.roster.remove_entry(friend), PATIENCE)
    assert friend not in anna.roster.items

    phone = await Client(USERS[0], "phone").open()
    await anna.presence(phone.node.local_jid)
    await phone.presence(anna.node.local_jid)
    await phone.stream.send(aioxmpp.Presence(type_=aioxmpp.PresenceType.AVAILABLE, to=bert.node.local_jid))
    await bert.presence(phone.node.local_jid)
    await phone.close()
    await bert.presence(phone.node.local_jid, available=False)

    info = await anna.node.summon(aioxmpp.DiscoClient).query_info(LOCALHOST)
    assert "urn:xmpp:ping" in info.features, info.features
    assert any((it.category, it.type_) == ("server", "im") for it in info.identities)
    assert (await aioxmpp.version.query_version(anna.stream, LOCALHOST)).name == "Plaza"
    await aioxmpp.ping.ping(anna.node, LOCALHOST)
    await aioxmpp.ping.ping(anna.node, bert.node.local_jid)

    again = await Client(USERS[1], "desk").open()
    error = await asyncio.wait_for(bert.failure, PATIENCE)
    assert "conflict" in str(error).lower(), repr(error)

    # Refused once, aioxmpp asks for another password whatever the condition was, and there is none.
    for user, password in [(USERS[0], "wrong"), (DISABLED, PASSWORD)]:
        said = await refused(user, password)
        assert "aborted by user" in said, said
    for client in [anna, again, *clients[2:]]:
        await client.close()


asyncio.run(asyncio.wait_for(main(), 100))
