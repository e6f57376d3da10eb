"""A lamp as it leaves the factory: it knows its serial number, a secret, and its maker's API key.

It creates its account with a form signed by that key (XEP-0077, XEP-0348), registers at the broker's registry (XEP-0347),
prints what is on its label, and answers whoever it may: it asks the broker (XEP-0324).

Wants slixmpp from PyPI. Run it where the broker was started, since it trusts the certificate in ./plaza-data.

    python lamp.py API-KEY API-SECRET [SERIAL [PORT]]
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import sys
import time
from datetime import datetime, timezone
from urllib.parse import quote
from xml.etree import ElementTree as ET

import slixmpp
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

API_KEY, API_SECRET = sys.argv[1], sys.argv[2]
SERIAL = sys.argv[3] if len(sys.argv) > 3 else secrets.token_hex(4)
PORT = int(sys.argv[4]) if len(sys.argv) > 4 else 5222
DOMAIN, REGISTRY = "localhost", "things.localhost"
NF = "urn:nf:iot:"
KEY = secrets.token_hex(16)
TAGS = [("str", "MAN", "maker.example"), ("str", "MODEL", "Lamp"), ("str", "SN", SERIAL), ("num", "V", "1.0"), ("str", "KEY", KEY)]


def escape(text):
    return quote(text, safe="-._~")


def signed(fields):
    """The signature of a form that is submitted (XEP-0348 §3)."""
    pairs = "&".join(f"{escape(name)}={escape(value)}" for name, value in sorted(fields.items()) if name != "oauth_token_secret")
    text = f"submit&&{escape(pairs)}"
    key = f"{escape(API_SECRET)}&{escape(fields['oauth_token_secret'])}"
    digest = hmac.new(key.encode(), text.encode(), hashlib.sha1).digest()
    return escape(base64.b64encode(digest).decode())


class Lamp(slixmpp.ClientXMPP):
    def __init__(self):
        super().__init__(f"lamp-{SERIAL}@{DOMAIN}/home", secrets.token_hex(16))
        self.ca_certs = "plaza-data/tls/certificate.pem"
        self.enable_direct_tls = False
        for plugin in ("xep_0030", "xep_0077", "xep_0199"):
            self.register_plugin(plugin)
        self.auto_authorize = self.auto_subscribe = None
        self.owner = None
        self.add_event_handler("register", self.create_account)
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("presence_subscribe", lambda asks: asyncio.ensure_future(self.subscribed(asks)))
        for name, ns in (("claimed", "disco:1.0"), ("disowned", "disco:1.0"), ("removed", "disco:1.0"), ("clearCache", "prov:d:1.0")):
            self.on("set", f"{{{NF}{ns}}}{name}", self.told)
        self.on("get", f"{{{NF}sd:1.0}}req", self.read)

    def on(self, kind, payload, handle):
        matcher = MatchXPath(f"{{jabber:client}}iq[@type='{kind}']/{payload}")
        self.register_handler(Callback(payload, matcher, lambda iq: asyncio.ensure_future(handle(iq, iq.xml.find(payload)))))

    async def create_account(self, offer):
        form = offer.xml.find(".//{jabber:x:data}x")
        fields = {field.get("var"): field.findtext("{jabber:x:data}value") or "" for field in form}
        fields.update(username=self.boundjid.local, password=self.password, oauth_consumer_key=API_KEY,
                      oauth_nonce=secrets.token_hex(16), oauth_timestamp=str(int(time.time())))
        fields.pop("oauth_signature")
        fields["oauth_signature"] = signed(fields)
        submit = ET.Element("{jabber:x:data}x", type="submit")
        for name, value in fields.items():
            ET.SubElement(ET.SubElement(submit, "{jabber:x:data}field", var=name), "{jabber:x:data}value").text = value
        iq = self.make_iq_set(ito=DOMAIN)
        iq["register"].xml.append(submit)
        await iq.send()
        print(f"created {self.boundjid.bare}", flush=True)

    async def ask(self, kind, to, payload):
        iq = self.make_iq(ito=to)
        iq["type"] = kind
        iq.append(payload)
        answer = await iq.send()
        return next(iter(answer.xml), None)

    async def start(self, _):
        self.send_presence()
        register = ET.Element(f"{{{NF}disco:1.0}}register")
        for kind, name, value in TAGS:
            ET.SubElement(register, f"{{{NF}disco:1.0}}{kind}", name=name, value=value)
        answer = await self.ask("set", REGISTRY, register)
        if answer is not None:
            self.owner = answer.get("jid")
        tags = [f"{'#' if kind == 'num' else ''}{name}={quote(value)}" for kind, name, value in TAGS]
        print("label iotdisco:" + ";".join([*tags, f"R={REGISTRY}"]), flush=True)

    async def told(self, iq, payload):
        iq.reply().send()
        what = payload.tag.split("}")[1]
        if what != "clearCache":
            self.owner = payload.get("jid")
            print(f"{what} {self.owner or ''}".strip(), flush=True)
            if what == "disowned":
                await self.start(None)

    async def allowed(self, question, jid, **attributes):
        """Whether somebody may do something: the owner may, about others the broker knows."""
        if jid == self.owner:
            return True
        payload = ET.Element(f"{{{NF}prov:d:1.0}}{question}", jid=jid, **attributes)
        answer = await self.ask("get", REGISTRY, payload)
        return answer.get("result") == "true"

    async def subscribed(self, asks):
        who = asks["from"].bare
        yes = await self.allowed("isFriend", who)
        self.send_presence(pto=who, ptype="subscribed" if yes else "unsubscribed")

    async def read(self, iq, request):
        who = iq["from"].bare
        if not await self.allowed("canRead", who, m="true"):
            reply = iq.reply()
            reply["error"]["type"], reply["error"]["condition"] = "cancel", "forbidden"
            return reply.send()
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        answer = ET.Element(f"{{{NF}sd:1.0}}resp", id=request.get("id"))
        moment = ET.SubElement(answer, f"{{{NF}sd:1.0}}ts", v=now)
        ET.SubElement(moment, f"{{{NF}sd:1.0}}q", n="Power", v="4.2", u="W", m="true", ar="true")
        reply = iq.reply()
        reply.append(answer)
        reply.send()
        print(f"read by {who}", flush=True)


async def main():
    lamp = Lamp()
    lamp.connect("127.0.0.1", PORT)
    await lamp.wait_until("disconnected", 1_000_000)


asyncio.run(main())
