"""Drives the broker with slixmpp: usage slix.py STARTTLS-PORT DIRECT-PORT PASSWORD USER… (the last one is disabled)."""

import asyncio
import itertools
import ssl
import sys

import slixmpp

STARTTLS, DIRECT = int(sys.argv[1]), int(sys.argv[2])
PASSWORD, USERS, DISABLED = sys.argv[3], sys.argv[4:-1], sys.argv[-1]
PATIENCE = 20


class Notes(slixmpp.ElementBase):
    """Something to keep in private XML."""

    name, namespace, plugin_attrib = "notes", "urn:example:notes", "notes"
    interfaces = sub_interfaces = {"text"}


class Client(slixmpp.ClientXMPP):
    """A client with one transport and one mechanism allowed."""

    def __init__(self, user, resource, direct=False, mechanism=None, password=PASSWORD):
        super().__init__(f"{user}@localhost/{resource}", password, sasl_mech=mechanism)
        self.enable_direct_tls, self.enable_starttls = direct, not direct
        self.ssl_context.check_hostname, self.ssl_context.verify_mode = False, ssl.CERT_NONE
        self.port = DIRECT if direct else STARTTLS
        self.messages, self.presences, self.ends = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        for plugin in ("xep_0030", "xep_0049", "xep_0054", "xep_0092", "xep_0191", "xep_0199", "xep_0202"):
            self.register_plugin(plugin)
        self.add_event_handler("message", self.messages.put_nowait)
        self.add_event_handler("presence_available", self.presences.put_nowait)
        self.add_event_handler("presence_unavailable", self.presences.put_nowait)
        self.add_event_handler("stream_error", lambda error: self.ends.put_nowait(error["condition"]))

    async def open(self):
        started = asyncio.ensure_future(self.wait_until("session_start", PATIENCE))
        refused = asyncio.ensure_future(self.wait_until("failed_all_auth", PATIENCE))
        await asyncio.sleep(0)
        self.connect("127.0.0.1", self.port)
        done, rest = await asyncio.wait({started, refused}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in rest:
            waiting.cancel()
        assert started in done and not started.exception(), f"{self.requested_jid} can't log in"
        return self

    async def available(self):
        self.send_presence()
        await self.presence_from(self.boundjid.full)

    async def presence_from(self, jid, kind="available"):
        while True:
            presence = await asyncio.wait_for(self.presences.get(), PATIENCE)
            if presence["from"].full == jid and presence["type"] == kind:
                return

    async def close(self):
        await self.disconnect()


async def body(client):
    return (await asyncio.wait_for(client.messages.get(), PATIENCE))["body"]


async def refused(user, password):
    client = Client(user, "x", password=password)
    failed = asyncio.ensure_future(client.wait_until("failed_auth", PATIENCE))
    await asyncio.sleep(0)
    client.connect("127.0.0.1", client.port)
    failure = await failed
    await client.close()
    return failure["condition"]


async def main():
    clients = []
    ways = [(False, None), (True, None), (False, "SCRAM-SHA-256"), (True, "SCRAM-SHA-256"), (False, "SCRAM-SHA-256-PLUS")]
    for user, (direct, mechanism) in zip(USERS, ways):
        client = await Client(user, "desk", direct, mechanism).open()
        assert client.boundjid.full == f"{user}@localhost/desk", client.boundjid
        await client.available()
        clients.append(client)
    assert len(clients) == len(USERS) >= 4

    # Chat both ways between all pairs, to full and to bare addresses.
    for one, other in itertools.permutations(clients, 2):
        for to in (other.boundjid.full, other.boundjid.bare):
            text = f"{one.boundjid} → {to}: <&> ünï🦀"
            one.send_message(mto=to, mbody=text, mtype="chat")
            assert await body(other) == text

    anna, bert = clients[:2]
    # Roster.
    await anna.get_roster()
    assert bert.boundjid.bare not in anna.client_roster
    await anna.update_roster(bert.boundjid.bare, name="Bert", groups=["Friends"])
    # The push said all, with a version: it is not told again, but to who has forgotten.
    assert anna.client_roster[bert.boundjid.bare]["name"] == "Bert"
    assert anna.client_roster.version, anna.client_roster
    iq = await anna.get_roster()
    assert not iq["roster"]["items"], iq
    anna.client_roster.version = ""
    iq = await anna.get_roster()
    item = iq["roster"]["items"][slixmpp.JID(bert.boundjid.bare)]
    assert (item["name"], item["groups"]) == ("Bert", ["Friends"]), item
    await anna.del_roster_item(bert.boundjid.bare)
    iq = await anna.get_roster()
    assert not iq["roster"]["items"], iq

    # Presence between own resources.
    phone = await Client(USERS[0], "phone").open()
    await phone.available()
    await anna.presence_from(phone.boundjid.full)
    await phone.presence_from(anna.boundjid.full)
    # Directed presence, and its end.
    phone.send_presence(pto=bert.boundjid.full)
    await bert.presence_from(phone.boundjid.full)
    await phone.close()
    await bert.presence_from(phone.boundjid.full, "unavailable")
    await anna.presence_from(phone.boundjid.full, "unavailable")

    # Services.
    info = await anna["xep_0030"].get_info(jid="localhost")
    assert ("server", "im", None, None) in {(i[0], i[1], None, None) for i in info["disco_info"]["identities"]}, info
    assert {"urn:xmpp:ping", "jabber:iq:version"} <= set(info["disco_info"]["features"]), info
    version = await anna["xep_0092"].get_version("localhost")
    assert version["software_version"]["name"] == "Plaza", version
    assert await anna["xep_0202"].get_entity_time("localhost")
    assert await anna["xep_0199"].ping("localhost") >= 0
    # Client to client: answered by the other one.
    version = await anna["xep_0092"].get_version(bert.boundjid.full)
    assert version["type"] == "result", version

    # What an account owns.
    card = anna["xep_0054"].make_vcard()
    card["FN"] = "Anna <&> ünï🦀"
    await anna["xep_0054"].publish_vcard(card)
    for reader in (anna, bert):
        iq = await reader["xep_0054"].get_vcard(anna.boundjid.bare)
        assert iq["vcard_temp"]["FN"] == "Anna <&> ünï🦀", iq
    anna["xep_0049"].register(Notes)
    notes = Notes()
    notes["text"] = "1 < 2"
    await anna["xep_0049"].store(notes)
    iq = await anna["xep_0049"].retrieve("notes")
    assert iq["private"]["notes"]["text"] == "1 < 2", iq

    # Blocking.
    await anna["xep_0191"].block(bert.boundjid.bare)
    iq = await anna["xep_0191"].get_blocked()
    assert {str(item["jid"]) for item in iq["blocklist"]} == {bert.boundjid.bare}, iq
    try:
        await bert["xep_0092"].get_version(anna.boundjid.full)
        raise AssertionError("who is blocked was answered")
    except slixmpp.exceptions.IqError as error:
        assert error.condition == "service-unavailable", error
    await anna["xep_0191"].unblock(bert.boundjid.bare)
    bert.send_message(mto=anna.boundjid.full, mbody="at last", mtype="chat")
    assert await body(anna) == "at last"

    # A newcomer takes the resource over.
    again = await Client(USERS[0], "desk").open()
    assert await asyncio.wait_for(anna.ends.get(), PATIENCE) == "conflict"
    assert again.boundjid.full == f"{USERS[0]}@localhost/desk"

    assert await refused(USERS[0], "wrong") == "not-authorized"
    assert await refused("nobody", "wrong") == "not-authorized"
    assert await refused(DISABLED, PASSWORD) == "account-disabled"

    for client in [again, *clients[1:]]:
        await client.close()


asyncio.run(asyncio.wait_for(main(), 100))
