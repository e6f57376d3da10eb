"""An owner's app, from the command line: claims a thing by its label, reads it, and answers what the broker asks.

Wants slixmpp from PyPI. Run it where the broker was started, since it trusts the certificate in ./plaza-data.

    python owner.py USER PASSWORD PORT claim LABEL
    python owner.py USER PASSWORD PORT read JID
    python owner.py USER PASSWORD PORT answer yes|no
"""

import asyncio
import sys
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import slixmpp

USER, PASSWORD, PORT, DO, WHAT = sys.argv[1:6]
REGISTRY = "things.localhost"
NF = "urn:nf:iot:"
PATIENCE = 20


class Owner(slixmpp.ClientXMPP):
    def __init__(self):
        super().__init__(f"{USER}@localhost", PASSWORD)
        self.ca_certs = "plaza-data/tls/certificate.pem"
        self.enable_direct_tls = False
        self.presences, self.messages = asyncio.Queue(), asyncio.Queue()
        self.add_event_handler("presence_available", self.presences.put_nowait)
        self.add_event_handler("presence_unsubscribed", self.presences.put_nowait)
        self.register_handler(slixmpp.xmlstream.handler.Callback(
            "messages", slixmpp.xmlstream.matcher.MatchXPath("{jabber:client}message"), self.messages.put_nowait))

    async def ask(self, kind, to, payload):
        iq = self.make_iq(ito=to)
        iq["type"] = kind
        iq.append(payload)
        answer = await iq.send(timeout=PATIENCE)
        return next(iter(answer.xml), None)

    async def claim(self, label):
        mine = ET.Element(f"{{{NF}disco:1.0}}mine", public="true")
        for tag in label.removeprefix("iotdisco:").split(";"):
            name, value = tag.split("=", 1)
            if name != "R":
                kind = "num" if name.startswith("#") else "str"
                ET.SubElement(mine, f"{{{NF}disco:1.0}}{kind}", name=name.lstrip("#"), value=unquote(value))
        claimed = await self.ask("set", REGISTRY, mine)
        print(f"claimed {claimed.get('jid')}")

    async def read(self, jid):
        """Asks to see the thing, which tells its full address, and reads it there."""
        self.send_presence(pto=jid, ptype="subscribe")
        while True:
            presence = await asyncio.wait_for(self.presences.get(), PATIENCE)
            if presence["from"].bare == jid:
                break
        if presence["type"] == "unsubscribed":
            return print(f"{jid} does not want to be seen: its owner has been asked")
        request = ET.Element(f"{{{NF}sd:1.0}}req", id="1", m="true")
        try:
            answer = await self.ask("get", presence["from"].full, request)
        except slixmpp.exceptions.IqError as error:
            return print(f"{jid} does not want to be read ({error.condition}): its owner has been asked")
        for field in answer.iter(f"{{{NF}sd:1.0}}q"):
            print(f"{field.get('n')} {field.get('v')} {field.get('u')}")

    async def answer(self, word):
        """Answers all that the broker asks, as long as it does."""
        while True:
            try:
                message = await asyncio.wait_for(self.messages.get(), 3)
            except asyncio.TimeoutError:
                return
            question = next(iter(message.xml), None)
            if question is None or not question.tag.startswith(f"{{{NF}prov:o:1.0}}"):
                continue
            kind, ns = question.tag.split("}")[1], f"{NF}prov:o:1.0"
            rule = ET.Element(f"{{{ns}}}{kind}Rule", jid=question.get("jid"), remoteJid=question.get("remoteJid"),
                              key=question.get("key"), result="true" if word == "yes" else "false")
            if kind == "isFriend":
                rule.set("range", "Caller")
            else:
                ET.SubElement(rule, f"{{{ns}}}fromJid")
            await self.ask("set", REGISTRY, rule)
            print(f"{kind} {question.get('remoteJid')}: {word}")


async def main():
    owner = Owner()
    started = asyncio.ensure_future(owner.wait_until("session_start", PATIENCE))
    await asyncio.sleep(0)
    owner.connect("127.0.0.1", int(PORT))
    await started
    owner.send_presence()
    await getattr(owner, DO)(WHAT)
    await owner.disconnect()


asyncio.run(main())
