"""An owner asks a lamp who it is and reads it out: two accounts on one broker, two connections, TLS verified.

Wants the accounts lamp and owner with the passwords lamp-secret and owner-secret, and slixmpp from PyPI. Run it where the
broker was started, since it trusts the certificate in ./plaza-data. The argument is the port, 5222 if left out.
"""
import asyncio
import sys
import xml.etree.ElementTree as ET
import slixmpp
from slixmpp.xmlstream.handler import CoroutineCallback
from slixmpp.xmlstream.matcher import MatchXPath

READ = "urn:nf:iot:sd:1.0"
READING = f"<resp xmlns='{READ}' id='r1'><ts v='2026-01-02T03:04:05Z'><q n='Power' v='4.2' u='W' m='true'/></ts></resp>"
PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 5222


async def login(name):
    client = slixmpp.ClientXMPP(f"{name}@localhost/home", f"{name}-secret")
    client.ca_certs = "plaza-data/tls/certificate.pem"
    client.add_event_handler("session_start", lambda _: client.send_presence())
    client.connect("127.0.0.1", PORT)
    await client.wait_until("session_start", timeout=10)
    return client


async def main():
    lamp, owner = await login("lamp"), await login("owner")

    async def read_out(iq):
        reply = iq.reply()
        reply.set_payload(ET.fromstring(READING))
        reply.send()

    lamp.register_handler(CoroutineCallback("read", MatchXPath(f"{{jabber:client}}iq/{{{READ}}}req"), read_out))
    lamp.add_event_handler("message", lambda m: m.reply("I am a lamp.").send())

    owner.send_message(mto="lamp@localhost", mbody="Who are you?", mtype="chat")
    print("lamp says:", (await owner.wait_until("message", timeout=10))["body"])

    iq = owner.make_iq_get(ito="lamp@localhost/home")
    iq.set_payload(ET.fromstring(f"<req xmlns='{READ}' id='r1' m='true'/>"))
    for quantity in (await iq.send()).xml.iter(f"{{{READ}}}q"):
        print("lamp reads:", quantity.get("n"), quantity.get("v"), quantity.get("u"))
    await asyncio.gather(lamp.disconnect(), owner.disconnect())


asyncio.run(main())
