"""What slixmpp's clients here have in common: they are given STARTTLS-PORT and PASSWORD first, and come in like this."""

import asyncio
import ssl
import sys

import slixmpp

PORT, PASSWORD = int(sys.argv[1]), sys.argv[2]
PATIENCE = 20


class Base(slixmpp.ClientXMPP):
    """A client that takes the broker's certificate as it is."""

    def __init__(self, user, resource):
        super().__init__(f"{user}@localhost/{resource}", PASSWORD)
        self.ssl_context.check_hostname, self.ssl_context.verify_mode = False, ssl.CERT_NONE

    async def open(self):
        """Logs in and is available."""
        started = asyncio.ensure_future(self.wait_until("session_start", PATIENCE))
        await asyncio.sleep(0)
        self.connect("127.0.0.1", PORT)
        await started
        self.send_presence()
        return self
