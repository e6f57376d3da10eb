/* Drives the broker with libstrophe: strophe STARTTLS-PORT DIRECT-PORT PASSWORD. Logs anna in over STARTTLS and bert
 * over direct TLS; anna writes to bert, bert answers. Exits with 0 when the answer has come. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strophe.h>
#include <time.h>

static int ready, answered;
static xmpp_conn_t *anna, *bert;

static int on_message(xmpp_conn_t *conn, xmpp_stanza_t *stanza, void *data)
{
    xmpp_ctx_t *ctx = data;
    char *body = xmpp_message_get_body(stanza);
    if (!body)
        return 1;
    if (conn == bert && strcmp(body, "ping <&>") == 0) {
        xmpp_stanza_t *reply = xmpp_message_new(ctx, "chat", xmpp_stanza_get_from(stanza), "r");
        xmpp_message_set_body(reply, "pong <&>");
        xmpp_send(conn, reply);
        xmpp_stanza_release(reply);
    }
    if (conn == anna && strcmp(body, "pong <&>") == 0)
        answered = 1;
    xmpp_free(ctx, body);
    return 1;
}

static int trust(const xmpp_tlscert_t *cert, const char *error)
{
    (void)cert;
    (void)error;
    return 1;
}

static void on_connection(xmpp_conn_t *conn, xmpp_conn_event_t event, int error, xmpp_stream_error_t *stream_error,
                          void *data)
{
    xmpp_ctx_t *ctx = data;
    if (event != XMPP_CONN_CONNECT) {
        if (!answered) {
            fprintf(stderr, "disconnected: %d %s\n", error, stream_error && stream_error->text ? stream_error->text : "");
            exit(2);
        }
        return;
    }
    if (!xmpp_conn_is_secured(conn))
        exit(3);
    xmpp_handler_add(conn, on_message, NULL, "message", NULL, ctx);
    xmpp_stanza_t *presence = xmpp_presence_new(ctx);
    xmpp_send(conn, presence);
    xmpp_stanza_release(presence);
    if (++ready == 2) {
        xmpp_stanza_t *message = xmpp_message_new(ctx, "chat", "bert@localhost/c", "m");
        xmpp_message_set_body(message, "ping <&>");
        xmpp_send(anna, message);
        xmpp_stanza_release(message);
    }
}

static xmpp_conn_t *login(xmpp_ctx_t *ctx, const char *jid, const char *password, const char *port, long flags)
{
    xmpp_conn_t *conn = xmpp_conn_new(ctx);
    xmpp_conn_set_jid(conn, jid);
    xmpp_conn_set_pass(conn, password);
    xmpp_conn_set_certfail_handler(conn, trust);
    xmpp_conn_set_flags(conn, flags | XMPP_CONN_FLAG_TRUST_TLS);
    if (xmpp_connect_client(conn, "127.0.0.1", (unsigned short)atoi(port), on_connection, ctx) != XMPP_EOK)
        exit(4);
    return conn;
}

int main(int count, char **args)
{
    if (count != 4)
        return 1;
    xmpp_initialize();
    xmpp_ctx_t *ctx = xmpp_ctx_new(NULL, xmpp_get_default_logger(XMPP_LEVEL_DEBUG));
    anna = login(ctx, "anna@localhost/c", args[3], args[1], XMPP_CONN_FLAG_MANDATORY_TLS);
    bert = login(ctx, "bert@localhost/c", args[3], args[2], XMPP_CONN_FLAG_LEGACY_SSL);
    time_t end = time(NULL) + 20;
    while (!answered && time(NULL) < end)
        xmpp_run_once(ctx, 20);
    xmpp_disconnect(anna);
    xmpp_disconnect(bert);
    for (int turn = 0; turn < 20; turn++)
        xmpp_run_once(ctx, 10);
    xmpp_conn_release(anna);
    xmpp_conn_release(bert);
    xmpp_ctx_free(ctx);
    xmpp_shutdown();
    return answered ? 0 : 5;
}
