// What a client on xmpp.js does: it authenticates and binds in one round trip (XEP-0388, XEP-0386), resumes when it is cut
// off (XEP-0198), and comes back with a token instead of its password (XEP-0484).
//
// Arguments: the port with STARTTLS, the port with TLS from the first byte, the password of anna and bert. The
// certificate's authority is in NODE_EXTRA_CA_CERTS.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { client, jid, xml } from "@xmpp/client";

const [starttls, direct, password] = process.argv.slice(2);

const NS = {
  bind: "urn:xmpp:bind:0",
  csi: "urn:xmpp:csi:0",
  delay: "urn:xmpp:delay",
  fast: "urn:xmpp:fast:0",
  ping: "urn:xmpp:ping",
  roster: "jabber:iq:roster",
  sasl2: "urn:xmpp:sasl:2",
  sm: "urn:xmpp:sm:3",
  version: "jabber:iq:version",
};
const PATIENCE = 20_000;

/** A session under observation. */
class Session {
  constructor(service, username, credentials, userAgent = randomUUID()) {
    this.userAgent = userAgent;
    this.sent = [];
    this.heard = [];
    this.waiting = [];
    this.errors = [];
    this.token = credentials.token;
    this.xmpp = client({
      service,
      domain: "localhost",
      resource: "js",
      credentials: { username, ...credentials },
      userAgent: xml("user-agent", { id: userAgent }, xml("software", {}, "xmpp.js")),
    });
    this.xmpp.fast.saveToken = async (token) => void (this.token = token);
    this.xmpp.fast.fetchToken = async () => this.token;
    this.xmpp.fast.deleteToken = async () => void (this.token = undefined);
    this.xmpp.reconnect.delay = 300;
    this.xmpp.timeout = PATIENCE;
    this.xmpp.on("error", (error) => this.errors.push(error));
    this.xmpp.on("send", (element) => this.sent.push(element));
    this.xmpp.on("element", (element) => {
      this.heard.push(element);
      this.waiting = this.waiting.filter((wait) => !wait(element));
    });
  }

  /** The next element of which something is so. */
  next(what, so) {
    return new Promise((resolve, reject) => {
      const heard = () => this.heard.map(String).join("\n");
      const timer = setTimeout(() => reject(new Error(`waited too long for ${what}\n${heard()}`)), PATIENCE);
      this.waiting.push((element) => {
        if (!so(element)) return false;
        clearTimeout(timer);
        resolve(element);
        return true;
      });
    });
  }

  /** The next message with this text. */
  message(text) {
    return this.next(text, (element) => element.is("message") && element.getChildText("body") === text);
  }

  /** What it said last when it logged in, and what it was answered. */
  login() {
    const asked = this.sent.filter((element) => element.is("authenticate", NS.sasl2)).at(-1);
    const success = this.heard.filter((element) => element.is("success", NS.sasl2)).at(-1);
    assert.ok(asked && success, "SASL2 was used");
    return { asked, success };
  }

  bodies() {
    return this.heard.filter((element) => element.is("message")).map((element) => element.getChildText("body"));
  }

  say(to, text) {
    return this.xmpp.send(xml("message", { to, type: "chat", id: randomUUID() }, xml("body", {}, text)));
  }

  /** Cuts the connection without a word; the session's own end is left to be noticed. */
  cut() {
    const socket = this.xmpp.socket.socket;
    (socket._parent ?? socket).destroy();
    socket.destroy();
  }

  async stop() {
    const count = (elements, so) => elements.filter(so).length;
    const asked = count(this.heard, (element) => element.is("r", NS.sm));
    const stanzas = count(this.heard, (element) => this.xmpp.isStanza(element));
    assert.ok(asked <= stanzas, `it was asked ${asked} times for ${stanzas} stanzas`);
    await this.xmpp.stop();
    assert.deepEqual(this.errors, []);
  }
}

async function start(service, username, credentials, userAgent) {
  const session = new Session(service, username, credentials, userAgent);
  const address = await session.xmpp.start();
  assert.ok(address.equals(session.xmpp.jid) && address.bare().equals(jid(`${username}@localhost`)), `${address}`);
  assert.ok(address.resource.startsWith("js"), `${address}`);
  assert.ok(session.xmpp.isSecure());
  return session;
}

/** It was bound while authenticating, with a stream that can be resumed and a token for the next time. */
function entered(session, mechanism) {
  const { asked, success } = session.login();
  assert.equal(asked.attrs.mechanism, mechanism);
  const bound = success.getChild("bound", NS.bind);
  assert.ok(bound, `${success}`);
  assert.equal(bound.getChild("enabled", NS.sm)?.attrs.resume, "true");
  assert.ok(session.xmpp.streamManagement.enabled && session.xmpp.streamManagement.id);
  assert.equal(success.getChildText("authorization-identifier"), session.xmpp.jid.toString());
}

async function roster({ xmpp }) {
  const get = async () => (await xmpp.iqCaller.get(xml("query", NS.roster))).getChildren("item");
  assert.deepEqual(await get(), []);
  const item = { jid: "lamp@localhost", name: "Lämp <&>" };
  const pushed = new Promise((resolve) => {
    xmpp.iqCallee.set(NS.roster, "query", ({ element }) => {
      resolve(element.getChild("item").attrs);
      return true;
    });
  });
  await xmpp.iqCaller.set(xml("query", NS.roster, xml("item", item, xml("group", {}, "home"))));
  assert.deepEqual(await pushed, { ...item, subscription: "none" });
  const [stored] = await get();
  assert.deepEqual([stored.attrs, stored.getChildText("group")], [{ ...item, subscription: "none" }, "home"]);
  await xmpp.iqCaller.set(xml("query", NS.roster, xml("item", { jid: item.jid, subscription: "remove" })));
  assert.deepEqual(await get(), []);
  const own = xml("query", NS.roster, xml("item", { jid: xmpp.jid.bare().toString() }));
  await assert.rejects(xmpp.iqCaller.set(own), { name: "StanzaError", condition: "not-allowed" });
}

async function write(one, other) {
  for (const to of [other.xmpp.jid.toString(), other.xmpp.jid.bare().toString()]) {
    const text = `to ${to}: <&> ünï🦀`;
    const got = other.message(text);
    await one.say(to, text);
    assert.equal((await got).attrs.from, one.xmpp.jid.toString());
  }
}

async function ask(one, other) {
  const [here, there] = [one.xmpp.jid.toString(), other.xmpp.jid.toString()];
  const sight = other.next("presence", (element) => element.is("presence") && element.attrs.from === here);
  await one.xmpp.send(xml("presence", { to: there }, xml("show", {}, "away")));
  assert.equal((await sight).getChildText("show"), "away");
  // To the server, to one's account, to the other client, which answers itself.
  for (const to of ["localhost", undefined, there]) {
    await one.xmpp.iqCaller.get(xml("ping", NS.ping), to);
  }
  const version = await one.xmpp.iqCaller.get(xml("query", NS.version), "localhost");
  assert.equal(version.getChildText("name"), "Plaza");
  const nobody = one.xmpp.iqCaller.get(xml("query", NS.version), "nobody@localhost/x");
  await assert.rejects(nobody, { name: "StanzaError", condition: "service-unavailable" });
  await one.xmpp.send(xml("inactive", NS.csi));
  await one.xmpp.send(xml("active", NS.csi));
}

/**
 * Cut off with something under way in both directions: it is back by itself, with its token, and nothing is lost.
 *
 * Not after anything was asked: the client does not count answers, so it is sent what it has already; and what it answers
 * before it knows that it is back it does not count either, and fails over our count.
 */
async function resume(one, other) {
  const address = one.xmpp.jid.toString();
  const name = one.xmpp.streamManagement.id;
  const resumed = new Promise((resolve) => one.xmpp.streamManagement.once("resumed", resolve));
  let bound = 0;
  one.xmpp.on("online", () => (bound += 1));
  const outbound = other.message("said while it was cut");
  await one.say(other.xmpp.jid.toString(), "said while it was cut");
  one.cut();
  for (const number of [1, 2, 3]) {
    await other.say(address, `missed ${number}`);
  }
  const last = one.message("missed 3");
  await Promise.all([resumed, outbound, last]);
  assert.equal(bound, 0, "a session that is resumed is not bound again");
  const { asked, success } = one.login();
  assert.equal(asked.attrs.mechanism, "HT-SHA-256-NONE", "it was back with its token");
  assert.ok(asked.getChild("fast", NS.fast) && asked.getChild("resume", NS.sm), `${asked}`);
  assert.equal(success.getChild("resumed", NS.sm)?.attrs.previd, name, `${success}`);
  assert.ok(!success.getChild("bound", NS.bind), `${success}`);
  assert.equal(one.xmpp.jid.toString(), address);
  await write(one, other);
  await write(other, one);
  const missed = one.bodies().filter((body) => body?.startsWith("missed"));
  assert.deepEqual(missed, ["missed 1", "missed 2", "missed 3"]);
  assert.equal(other.bodies().filter((body) => body === "said while it was cut").length, 1);
  assert.ok(!other.heard.some((element) => element.is("presence") && element.attrs.type === "unavailable"));
}

for (const service of [`xmpp://localhost:${starttls}`, `xmpps://localhost:${direct}`]) {
  let anna = await start(service, "anna", { password });
  const bert = await start(service, "bert", { password });
  entered(anna, "SCRAM-SHA-1");
  entered(bert, "SCRAM-SHA-1");
  assert.ok(anna.login().asked.getChild("request-token", NS.fast));
  assert.ok(anna.token?.token && new Date(anna.token.expiry) > new Date());
  for (const session of [anna, bert]) {
    const sight = session.next("own presence", (element) => element.is("presence"));
    await session.xmpp.send(xml("presence"));
    await sight;
  }
  await write(anna, bert);
  await write(bert, anna);
  await resume(anna, bert);
  await resume(bert, anna);
  await roster(anna);
  await ask(anna, bert);
  await ask(bert, anna);

  // The same installation, started anew: it has a token and no password, and it has its resource again.
  const { token, userAgent } = anna;
  const address = anna.xmpp.jid.toString();
  await anna.stop();
  anna = await start(service, "anna", { token }, userAgent);
  entered(anna, "HT-SHA-256-NONE");
  assert.equal(anna.xmpp.jid.toString(), address);
  await anna.xmpp.send(xml("presence"));
  await write(anna, bert);
  await ask(anna, bert);
  await anna.stop();
  await bert.stop();

  // A token of another's, and a wrong password.
  const thief = new Session(service, "bert", { token, password: "wrong" }, userAgent);
  await thief.xmpp.start().then(
    () => assert.fail("it was let in"),
    (error) => assert.equal(error.condition, "not-authorized"),
  );
  thief.xmpp.reconnect.stop();
  await thief.xmpp.stop();
}
