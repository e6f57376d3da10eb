"""Reads and controls a lamp with slixmpp's sensor data and control plug-ins (XEP-0323, XEP-0325), both sides of them.

usage: slix_iot.py STARTTLS-PORT PASSWORD LAMP OWNER STRANGER open|enforced
"""

import asyncio
import sys
from xml.etree import ElementTree

import slixmpp
from slixmpp.plugins.xep_0323.device import Device as Sensor
from slixmpp.plugins.xep_0325.device import Device as Actuator

from slix_base import PATIENCE, Base

LAMP, OWNER, STRANGER, ENFORCED = *sys.argv[3:6], sys.argv[6] == "enforced"
REGISTER = "<register xmlns='urn:xmpp:iot:discovery'><str name='SN' value='1'/><str name='KEY' value='k'/></register>"


class Client(Base):
    """A client with both plug-ins, and what their requests come to."""

    def __init__(self, user):
        super().__init__(user, "iot")
        self.register_plugin("xep_0030")
        for plugin in ("xep_0323", "xep_0325"):
            # A thread of theirs would send without waking the loop that writes.
            self.register_plugin(plugin, {"threaded": False})
        self.results, self.errors = asyncio.Queue(), asyncio.Queue()
        self.register_handler(slixmpp.xmlstream.handler.Callback(
            "refused", slixmpp.xmlstream.matcher.StanzaPath("iq@type=error"), self.errors.put_nowait))

    def told(self, **result):
        self.loop.call_soon_threadsafe(self.results.put_nowait, result)

    async def read(self, lamp):
        """All that a readout says, until it is done or refused."""
        self["xep_0323"].request_data(
            from_jid=self.boundjid.full, to_jid=lamp, callback=self.told, fields=["Power"], flags={"momentary": "true"})
        fields = []
        while True:
            result = await self.outcome()
            if isinstance(result, str):
                return result
            fields += [(field["name"], field["value"], field["unit"]) for field in result.get("fields") or []]
            if result["result"] == "done":
                return fields

    async def switch(self, lamp, value):
        self["xep_0325"].set_request(
            from_jid=self.boundjid.full, to_jid=lamp, callback=self.told, fields=[("Output", "boolean", value)])
        result = await self.outcome()
        return result if isinstance(result, str) else result["result"]

    async def outcome(self):
        result, error = (asyncio.ensure_future(queue.get()) for queue in (self.results, self.errors))
        done, rest = await asyncio.wait({result, error}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        for waiting in rest:
            waiting.cancel()
        assert done, "neither an answer nor an error"
        return result.result() if result in done else error.result()["error"]["condition"]


async def main():
    lamp, owner, stranger = [await Client(user).open() for user in (LAMP, OWNER, STRANGER)]
    sensor, actuator = Sensor("lamp"), Actuator("lamp")
    sensor._add_field(name="Power", typename="numeric", unit="W")
    sensor._add_field_momentary_data("Power", "4.2", flags={"automaticReadout": "true"})
    actuator._add_control_field(name="Output", typename="boolean", value="false")
    lamp["xep_0323"].register_node(nodeId="lamp", device=sensor, commTimeout=PATIENCE)
    lamp["xep_0325"].register_node(nodeId="lamp", device=actuator, commTimeout=PATIENCE)
    address = lamp.boundjid.full

    assert await owner.read(address) == [("Power", "4.2", "W")]
    assert await owner.switch(address, "true") == "OK"
    assert actuator._get_field_value("Output") == "true"
    if ENFORCED:
        assert await stranger.read(address) == "forbidden"
        assert await stranger.switch(address, "false") == "forbidden"
        # A command that nobody answers (XEP-0325 §3.2) does not arrive either.
        stranger["xep_0325"].set_command(
            from_jid=stranger.boundjid.full, to_jid=address, fields=[("Output", "boolean", "false")])
        assert await owner.read(address) == [("Power", "4.2", "W")]
        assert actuator._get_field_value("Output") == "true"
    else:
        # The plug-in lets anybody: so it is with a thing that asks nobody and is not enforced.
        assert await stranger.read(address) == [("Power", "4.2", "W")]
        stranger["xep_0325"].set_command(
            from_jid=stranger.boundjid.full, to_jid=address, fields=[("Output", "boolean", "false")])
        while actuator._get_field_value("Output") != "false":
            await asyncio.sleep(0.05)
        iq = lamp.make_iq_set(ito="things.localhost")
        iq.append(ElementTree.fromstring(REGISTER))
        await iq.send(timeout=PATIENCE)
    for client in (lamp, owner, stranger):
        await client.disconnect()


asyncio.run(asyncio.wait_for(main(), 100))
