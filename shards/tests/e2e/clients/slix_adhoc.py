"""The commands of owners with slixmpp's plug-in (XEP-0050): requests that wait (XEP-0060 §8.7), a thing's rules enforced.

usage: slix_adhoc.py STARTTLS-PORT PASSWORD OWNER SUBSCRIBER LAMP
"""

import asyncio
import sys
from xml.etree import ElementTree

from slixmpp.exceptions import IqError

from slix_base import PATIENCE, Base

OWNER, SUBSCRIBER, LAMP = sys.argv[3:]
SERVICE, THINGS, PUBSUB = "pubsub.localhost", "things.localhost", "http://jabber.org/protocol/pubsub"
COMMANDS, PENDING = "http://jabber.org/protocol/commands", f"{PUBSUB}#get-pending"
REQ = "<req xmlns='urn:xmpp:iot:sensordata' seqnr='1' momentary='true'/>"


class Client(Base):
    """A client with the plug-ins, and the forms that come to it."""

    def __init__(self, user):
        super().__init__(user, "adhoc")
        for plugin in ("xep_0004", "xep_0030", "xep_0050", "xep_0060"):
            self.register_plugin(plugin)
        self.forms = asyncio.Queue()
        self.add_event_handler("message_xform", self.forms.put_nowait)

    async def run(self, jid, node, answers):
        """Executes a command and completes it with these fields; gives both answers."""
        command = self["xep_0050"].send_command
        asked = (await command(jid, node, timeout=PATIENCE))["command"]
        assert asked["status"] == "executing" and "complete" in asked["actions"], asked
        form = self["xep_0004"].make_form(ftype="submit")
        for var, value in answers.items():
            form.add_field(var=var, value=value)
        done = await command(
            jid, node, action="complete", payload=form, sessionid=asked["sessionid"], timeout=PATIENCE)
        done = done["command"]
        assert (done["status"], done["sessionid"]) == ("completed", asked["sessionid"]), done
        return asked["form"], done

    async def commands(self, jid):
        items = (await self["xep_0050"].get_commands(jid, timeout=PATIENCE))["disco_items"]["items"]
        for _, node, _ in items:
            info = (await self["xep_0030"].get_info(jid=jid, node=node))["disco_info"]
            assert ("automation", "command-node") in {identity[:2] for identity in info["identities"]}, info
            assert COMMANDS in info["features"], info
        return {node for _, node, _ in items}


async def refused(request, condition):
    try:
        answer = await request
    except IqError as error:
        assert error.condition == condition, error.iq
    else:
        raise AssertionError(f"was answered: {answer}")


async def pending(service, owner, subscriber):
    config = owner["xep_0004"].make_form(ftype="submit")
    config.add_field(var="FORM_TYPE", ftype="hidden", value=f"{PUBSUB}#node_config")
    config.add_field(var="pubsub#access_model", value="authorize")
    await owner["xep_0060"].create_node(service, "club", config)
    assert await owner.commands(service) == {PENDING}
    await subscriber["xep_0060"].subscribe(service, "club")
    first = await asyncio.wait_for(owner.forms.get(), PATIENCE)
    form, _ = await owner.run(service, PENDING, {"pubsub#node": "club"})
    options = [option["value"] for option in form.get_fields()["pubsub#node"]["options"]]
    assert options == ["club"], form
    again = await asyncio.wait_for(owner.forms.get(), PATIENCE)
    for request in (first, again):
        values = request["form"].get_values()
        assert (request["from"], values["pubsub#node"]) == (service, "club"), request
        assert values["pubsub#subscriber_jid"] == subscriber.boundjid.bare, request


async def enforced(owner, stranger, lamp):
    """What the owner says takes effect with the next request."""
    address = lamp.boundjid
    assert await owner.commands(THINGS) == {"enforce"}
    for value, outcome in (("true", "forbidden"), ("false", "feature-not-implemented")):
        _, done = await owner.run(THINGS, "enforce", {"jid": address.bare, "enforce": value})
        assert done["form"].get_values()["enforce"] is (value == "true"), done
        asked = stranger.make_iq_get(ito=address.full)
        asked.append(ElementTree.fromstring(REQ))
        await refused(asked.send(timeout=PATIENCE), outcome)
        _, done = await owner.run(THINGS, "enforce", {"jid": address.bare})
        assert done["form"].get_values()["enforce"] is (value == "true"), done
    for jid in (address.bare, "nobody@localhost"):
        await refused(stranger.run(THINGS, "enforce", {"jid": jid, "enforce": "true"}), "item-not-found")


async def main():
    owner, subscriber, lamp = [await Client(user).open() for user in (OWNER, SUBSCRIBER, LAMP)]
    assert await subscriber.commands(SERVICE) == set()
    await refused(subscriber["xep_0050"].send_command(SERVICE, PENDING, timeout=PATIENCE), "forbidden")
    await pending(SERVICE, owner, subscriber)
    await enforced(owner, subscriber, lamp)
    for client in (owner, subscriber, lamp):
        await client.disconnect()


asyncio.run(asyncio.wait_for(main(), 90))
