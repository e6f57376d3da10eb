"""Publishes and subscribes with slixmpp: usage pubsub.py STARTTLS-PORT PASSWORD OWNER CONTACT STRANGER."""

import asyncio
import ssl
import sys

import slixmpp
from slixmpp.exceptions import IqError
from slixmpp.xmlstream import ET

PORT, PASSWORD = int(sys.argv[1]), sys.argv[2]
OWNER, CONTACT, STRANGER = sys.argv[3:]
SERVICE = "pubsub.localhost"
PUBSUB = "http://jabber.org/protocol/pubsub"
ERRORS = f"{{{PUBSUB}#errors}}"
MOOD, TUNE, SECRET = "urn:example:mood", "urn:example:tune", "urn:example:secret"
PATIENCE = 20


class Client(slixmpp.ClientXMPP):
    """A client that wants to be told of some nodes."""

    def __init__(self, user, resource, interests=()):
        super().__init__(f"{user}@localhost/{resource}", PASSWORD)
        self.ssl_context.check_hostname, self.ssl_context.verify_mode = False, ssl.CERT_NONE
        for plugin in ("xep_0004", "xep_0030", "xep_0059", "xep_0060", "xep_0115", "xep_0163", "xep_0203"):
            self.register_plugin(plugin)
        self.events, self.forms, self.subscribed = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        for name in ("publish", "retract", "purge", "delete", "config", "subscription"):
            self.add_event_handler(f"pubsub_{name}", lambda event, name=name: self.events.put_nowait((name, event)))
        self.add_event_handler("message_xform", self.forms.put_nowait)
        self.add_event_handler("presence_subscribed", self.subscribed.put_nowait)
        self.pubsub, self.interests = self["xep_0060"], interests

    async def open(self):
        started = asyncio.ensure_future(self.wait_until("session_start", PATIENCE))
        await asyncio.sleep(0)
        self.connect("127.0.0.1", PORT)
        await started
        await self.get_roster()
        for node in self.interests:
            self["xep_0163"].add_interest(node)
        await self["xep_0115"].update_caps(broadcast=False)
        self.send_presence()
        return self

    async def told(self, kind):
        """The next event, which must be of that kind."""
        name, event = await asyncio.wait_for(self.events.get(), PATIENCE)
        assert name == kind, f"{self.boundjid} waits for {kind}: {event}"
        return event

    async def item(self, node, text, publisher=None):
        """The next event, which must be the publication of one item with that text."""
        event = await self.told("publish")
        items = event["pubsub_event"]["items"]
        (item,) = items
        assert (items["node"], item["payload"].text) == (node, text), event
        assert publisher is None or event["from"] == publisher, event
        return event

    async def publish(self, to, node, text, item="current", options=None):
        payload = ET.Element("{urn:example:payload}e")
        payload.text = text
        return await self.pubsub.publish(to, node, id=item, payload=payload, options=options)

    def form(self, about, fields):
        form = self["xep_0004"].make_form(ftype="submit")
        form.add_field(var="FORM_TYPE", ftype="hidden", value=f"{PUBSUB}#{about}")
        for var, value in fields.items():
            form.add_field(var=f"pubsub#{var}", value=value)
        return form


async def refused(request, condition, detail=None):
    """The request must fail with the condition, and what publish-subscribe calls it."""
    try:
        answer = await request
    except IqError as error:
        details = [child.tag for child in error.iq["error"].xml if child.tag.startswith(ERRORS)]
        assert error.condition == condition, error.iq
        assert details == ([] if detail is None else [ERRORS + detail]), error.iq
    else:
        raise AssertionError(f"was answered: {answer}")


def texts(iq):
    return [item["payload"].text for item in iq["pubsub"]["items"]]


async def befriend(one, other):
    """Both see each other's presence: slixmpp allows and asks back by itself."""
    one.send_presence_subscription(pto=other.boundjid.bare)
    for client in (one, other):
        await asyncio.wait_for(client.subscribed.get(), PATIENCE)


async def personal(owner, contact, stranger):
    """XEP-0163, XEP-0222 and XEP-0223."""
    bare = owner.boundjid.bare
    info = (await owner["xep_0030"].get_info(jid=bare))["disco_info"]
    assert ("pubsub", "pep") in {identity[:2] for identity in info["identities"]}, info
    wanted = {  # Of XEP-0163 §6.1, and what private data takes.
        "access-presence", "access-whitelist", "auto-create", "auto-subscribe", "config-node", "create-and-configure",
        "create-nodes", "filtered-notifications", "last-published", "persistent-items", "publish", "publish-options",
        "retrieve-items", "subscribe",
    }
    assert {f"{PUBSUB}#{name}" for name in wanted} <= set(info["features"]), info

    # Who wants the node is told: the owner, and the contact, at the resource that said so and no other.
    await owner.publish(None, MOOD, "happy")
    await owner.item(MOOD, "happy", bare)
    event = await contact.item(MOOD, "happy", bare)
    assert event["type"] == "headline" and event["to"] == contact.boundjid.full, event
    # Nobody asked for this one, so that the next in the queue is the next mood.
    await owner.publish(None, TUNE, "la")
    await owner.publish(None, MOOD, "sad")
    await owner.item(MOOD, "sad")
    await contact.item(MOOD, "sad")

    # A resource that comes is told what was last, and when that was.
    late = await Client(CONTACT, "late", [MOOD]).open()
    event = await late.item(MOOD, "sad", bare)
    assert event["delay"]["stamp"], event
    await late.disconnect()
    own = await Client(OWNER, "late", [TUNE]).open()
    await own.item(TUNE, "la", bare)
    await own.disconnect()

    # Contacts read what their presence subscription opens to them; to strangers there is nothing.
    assert texts(await contact.pubsub.get_items(bare, MOOD)) == ["sad"]
    await refused(stranger.pubsub.get_items(bare, MOOD), "service-unavailable")

    # Data of one's own: not even contacts hear of it.
    private = owner.form("publish-options", {"persist_items": "true", "access_model": "whitelist"})
    await owner.publish(None, SECRET, "1234", options=private)
    await owner.item(SECRET, "1234")
    await refused(contact.pubsub.get_items(bare, SECRET), "not-allowed", "closed-node")
    # It is published only where it is private.
    await refused(owner.publish(None, MOOD, "1234", options=private), "conflict", "precondition-not-met")
    await owner.pubsub.modify_affiliations(bare, SECRET, [(contact.boundjid.bare, "member")])
    assert texts(await contact.pubsub.get_items(bare, SECRET)) == ["1234"]
    # What the contact hears next is another mood: of the secret it never heard.
    await owner.publish(None, MOOD, "glad")
    await owner.item(MOOD, "glad")
    await contact.item(MOOD, "glad")

    # An owner decides who may subscribe.
    await owner.pubsub.create_node(bare, "ask", owner.form("node_config", {"access_model": "authorize"}))
    await authorized(bare, "ask", owner, contact)


async def authorized(service, node, owner, subscriber):
    """A subscription that waits for its owner's approval (XEP-0060 §8.6), refused and then allowed."""
    for allow, state in (("0", "none"), ("1", "subscribed")):
        iq = await subscriber.pubsub.subscribe(service, node)
        assert iq["pubsub"]["subscription"]["subscription"] == "pending", iq
        request = await asyncio.wait_for(owner.forms.get(), PATIENCE)
        values = request["form"].get_values()
        assert values["pubsub#subscriber_jid"] == subscriber.boundjid.bare, request
        assert request["from"] == service and values["pubsub#node"] == node, request
        answer = owner.make_message(mto=service)
        answer["id"] = request["id"]
        answer.append(owner.form("subscribe_authorization", {
            "node": node, "subscriber_jid": subscriber.boundjid.bare, "allow": allow,
        }))
        answer.send()
        event = await subscriber.told("subscription")
        assert event["pubsub_event"]["subscription"]["subscription"] == state, event
    await owner.publish(service, node, "at last")
    await subscriber.item(node, "at last", service)


async def service(owner, subscriber, third):
    """XEP-0060 at an address of its own."""
    items = (await owner["xep_0030"].get_items(jid="localhost"))["disco_items"]["items"]
    assert SERVICE in {str(item[0]) for item in items}, items
    info = (await owner["xep_0030"].get_info(jid=SERVICE))["disco_info"]
    assert ("pubsub", "service") in {identity[:2] for identity in info["identities"]}, info
    assert f"{PUBSUB}#create-nodes" in info["features"], info

    config = owner.form("node_config", {"title": "News & more", "max_items": "3"})
    await owner.pubsub.create_node(SERVICE, "news", config)
    await refused(owner.pubsub.create_node(SERVICE, "news"), "conflict")
    values = (await owner.pubsub.get_node_config(SERVICE, "news"))["pubsub_owner"]["configure"]["form"].get_values()
    assert (values["pubsub#title"], values["pubsub#max_items"]) == ("News & more", "3"), values
    await owner.publish(SERVICE, "news", "old", "0")
    # With its subscription, a subscriber is told what was published last.
    await subscriber.pubsub.subscribe(SERVICE, "news")
    event = await subscriber.item("news", "old", SERVICE)
    assert event["delay"]["stamp"], event
    for number in range(1, 5):
        await owner.publish(SERVICE, "news", f"item {number}", str(number))
        await subscriber.item("news", f"item {number}", SERVICE)
    assert texts(await third.pubsub.get_items(SERVICE, "news")) == ["item 2", "item 3", "item 4"]
    assert texts(await third.pubsub.get_item(SERVICE, "news", "3")) == ["item 3"]

    await refused(third.publish(SERVICE, "news", "mine"), "forbidden")
    await owner.pubsub.modify_affiliations(SERVICE, "news", [(third.boundjid.bare, "publisher")])
    await third.publish(SERVICE, "news", "theirs", "5")
    await subscriber.item("news", "theirs")
    iq = await third.pubsub.get_affiliations(SERVICE)
    found = {(entry["node"], entry["affiliation"]) for entry in iq["pubsub"]["affiliations"]}
    assert found == {("news", "publisher")}, iq
    iq = await subscriber.pubsub.get_subscriptions(SERVICE)
    assert [entry["node"] for entry in iq["pubsub"]["subscriptions"]] == ["news"], iq

    await owner.pubsub.retract(SERVICE, "news", "5", notify=True)
    event = await subscriber.told("retract")
    assert event["pubsub_event"]["items"]["retract"]["id"] == "5", event
    await owner.pubsub.purge(SERVICE, "news")
    await subscriber.told("purge")
    assert texts(await third.pubsub.get_items(SERVICE, "news")) == []
    await authorized_at_service(owner, subscriber)

    await subscriber.pubsub.unsubscribe(SERVICE, "news")
    await refused(subscriber.pubsub.unsubscribe(SERVICE, "news"), "unexpected-request", "not-subscribed")
    await refused(third.pubsub.delete_node(SERVICE, "news"), "forbidden")
    await subscriber.pubsub.subscribe(SERVICE, "news")
    await owner.pubsub.delete_node(SERVICE, "news")
    await subscriber.told("delete")
    await refused(third.pubsub.get_items(SERVICE, "news"), "item-not-found")


async def authorized_at_service(owner, subscriber):
    await owner.pubsub.create_node(SERVICE, "club", owner.form("node_config", {"access_model": "authorize"}))
    await authorized(SERVICE, "club", owner, subscriber)
    await owner.pubsub.delete_node(SERVICE, "club")
    await subscriber.told("delete")


async def main():
    owner = await Client(OWNER, "desk", [MOOD, SECRET]).open()
    quiet = await Client(CONTACT, "quiet").open()
    contact = await Client(CONTACT, "desk", [MOOD, SECRET]).open()
    stranger = await Client(STRANGER, "desk", [MOOD]).open()
    await befriend(owner, contact)
    await personal(owner, contact, stranger)
    await service(owner, contact, stranger)
    # Explicit subscriptions of the account reach all its resources; what only the other one wanted does not.
    while not quiet.events.empty():
        _, event = quiet.events.get_nowait()
        assert not any(node in str(event) for node in (MOOD, TUNE, SECRET)), event
    for client in (stranger, owner, contact, quiet):
        assert client.events.empty(), client.events.get_nowait()
        await client.disconnect()


asyncio.run(asyncio.wait_for(main(), 90))
