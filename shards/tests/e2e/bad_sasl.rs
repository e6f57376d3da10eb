//! What peers do wrong when they log in and bind: each attempt is answered, and another is open.

use crate::broker::PASSWORD;
use crate::scene::{Scene, error};
use crate::wire::{HEADER, SASL, Wire, auth, bind, decode, nonce, response};

fn plain(text: &str) -> String {
    auth("PLAIN", text)
}

fn scram(text: &str) -> String {
    auth("SCRAM-SHA-256", text)
}

#[test]
fn bad_sasl_is_refused_and_the_next_attempt_succeeds() {
    let mut scene = Scene::open("");
    scene.broker.cli(&["account", "disable", "cleo@localhost"]);
    let raw = |base64: &str| format!("<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>{base64}</auth>");
    let cases: Vec<(&str, String, &str)> = vec![
        ("41 mechanism", auth("MAGIC", ""), "invalid-mechanism"),
        ("41 no mechanism", format!("<auth xmlns='{SASL}'/>"), "invalid-mechanism"),
        ("42 not Base64", raw("biws*"), "incorrect-encoding"),
        ("42 white space", raw("biws bj1hbm5hLHI9YQ=="), "incorrect-encoding"),
        ("42 line end", raw("biws\nbj1hbm5hLHI9YQ=="), "incorrect-encoding"),
        ("42 no padding", raw("biwsbj1hbm5hLHI9YQ"), "incorrect-encoding"),
        ("43 no nonce", scram("n,,n=anna"), "malformed-request"),
        ("43 extension", scram("n,,m=x,n=anna,r=abc"), "malformed-request"),
        ("43 commas", scram("n,,,,,,"), "malformed-request"),
        ("43 a comma too many", scram("n,,n=anna,,r=abc"), "malformed-request"),
        ("43 empty", auth("SCRAM-SHA-256", "="), "malformed-request"),
        ("43 a name badly escaped", scram("n,,n=an=na,r=abc"), "malformed-request"),
        ("44 password", plain("\0anna\0wrong"), "not-authorized"),
        ("44 user", plain("\0nobody\0wrong"), "not-authorized"),
        ("44 a name that can't be", scram("n,,n=an@na,r=abc"), "not-authorized"),
        ("45 authzid", plain("bert@localhost\0anna\0open-sesame"), "invalid-authzid"),
        ("45 authzid in SCRAM", scram("n,a=bert@localhost,n=anna,r=abc"), "invalid-authzid"),
        ("46 bound to nothing", auth("SCRAM-SHA-256-PLUS", "p=tls-exporter,,n=anna,r=abc"), "invalid-mechanism"),
        ("46 bound without -PLUS", scram("p=tls-exporter,,n=anna,r=abc"), "malformed-request"),
        ("48 abort", format!("<abort xmlns='{SASL}'/>"), "aborted"),
        ("50 disabled", plain("\0cleo\0open-sesame"), "account-disabled"),
        ("50 disabled, by SCRAM", scram("n,,n=cleo,r=abc"), "account-disabled"),
    ];
    for (case, input, condition) in cases {
        let mut wire = Wire::open(scene.broker.sasl_plain);
        wire.send(input);
        let said = wire.until_any(&["</failure>", "</challenge>", "</success>"]);
        scene.note(case, &said, &format!("<failure xmlns='{SASL}'><{condition}/></failure>"));
        // Another attempt is open.
        let said = wire.scram("anna", PASSWORD);
        scene.note(case, &said, "<success");
    }
    // In the middle of an exchange: bad last messages, and the end of it.
    let challenged = |scene: &Scene| {
        let mut wire = Wire::open(scene.broker.plain);
        wire.send(scram("n,,n=anna,r=abc"));
        let first = decode(&wire.until("</challenge>"));
        (wire, first.split(',').next().unwrap().to_owned())
    };
    for (case, input, condition) in [
        ("43 no proof", "c=biws,r=NONCE", "malformed-request"),
        ("43 another nonce", "c=biws,r=abcother,p=AAAA", ""),
        ("43 an extension at last", "c=biws,r=NONCE,m=x,p=AAAA", ""),
        ("46 another gs2 header", "c=eSws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not-authorized"),
        ("44 a wrong proof", "c=biws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not-authorized"),
        ("48 abort", "", "aborted"),
    ] {
        let (mut wire, nonce) = challenged(&scene);
        let abort = format!("<abort xmlns='{SASL}'/>");
        wire.send(if input.is_empty() { abort } else { response(&input.replace("r=NONCE", &nonce)) });
        let said = wire.until_any(&["</failure>", "</success>"]);
        scene.note(case, &said, &format!("<failure …<{condition}"));
        let said = wire.scram("anna", PASSWORD);
        scene.note(case, &said, "<success");
    }
    let mut wire = Wire::open(scene.broker.plain);
    wire.send(plain("\0anna\0open-sesame"));
    let said = wire.until("</failure>");
    scene.note("47 PLAIN where it is not offered", &said, "<failure");
    drop(wire);
    scene.close();
}

#[test]
fn the_fourth_attempt_ends_the_stream() {
    let mut scene = Scene::open("");
    let abort = format!("<abort xmlns='{SASL}'/>");
    for (case, attempt, condition) in
        [("49 wrong passwords", plain("\0anna\0wrong"), "not-authorized"), ("49 aborts", abort, "aborted")]
    {
        let mut wire = Wire::open(scene.broker.sasl_plain);
        for _ in 0..3 {
            wire.send(&attempt);
            let said = wire.until("</failure>");
            scene.note(case, &said, condition);
        }
        // The right password comes too late.
        wire.send(plain(&format!("\0anna\0{PASSWORD}")));
        let said = wire.drain();
        scene.note(case, &said, &error("policy-violation"));
    }
    scene.close();
}

#[test]
fn a_user_that_does_not_exist_has_a_salt_like_any_other() {
    let mut scene = Scene::open("");
    let challenge = |mechanism: &str, user: &str| {
        let mut wire = Wire::open(scene.broker.plain);
        let ours = nonce();
        wire.send(auth(mechanism, &format!("n,,n={user},r={ours}")));
        let said = decode(&wire.until("</challenge>"));
        let [nonce, salt, iterations] = said.split(',').take(3).collect::<Vec<_>>().try_into().unwrap();
        assert!(nonce.starts_with(&format!("r={ours}")), "{said}");
        (nonce.len() - ours.len(), salt.to_owned(), iterations.to_owned())
    };
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1"] {
        let [anna, nobody, noone] = ["anna", "nobody", "noone"].map(|user| challenge(mechanism, user));
        assert_eq!(nobody.1, challenge(mechanism, "nobody").1, "44 the same each time");
        assert_eq!(nobody.1, challenge(mechanism, "ＮＯＢＯＤＹ").1, "44 however it is written");
        assert_eq!(anna.1, challenge(mechanism, "ANNA").1);
        assert_ne!(nobody.1, noone.1, "44 each has its own");
        let shape = |(nonce, salt, iterations): &(usize, String, String)| (*nonce, salt.len(), iterations.clone());
        assert_eq!(shape(&anna), shape(&nobody), "44 and it looks alike");
    }
    assert_ne!(challenge("SCRAM-SHA-256", "nobody").1, challenge("SCRAM-SHA-1", "nobody").1);
    assert_ne!(challenge("SCRAM-SHA-256", "anna").1, challenge("SCRAM-SHA-1", "anna").1);
    scene.note("44 salts", "", "");
    scene.close();
}

#[test]
fn bad_binds_are_refused_and_conflicts_are_resolved() {
    let mut scene = Scene::open("");
    let mut wire = Wire::authenticated(&scene.broker, "anna");
    wire.send("<message/>");
    let said = wire.drain();
    scene.note("27 stanza instead of a restart", &said, "<stream:error>…</stream:stream>");
    for (case, resource) in [
        ("52 long", "r".repeat(1024)),
        ("52 a control character", "\u{7f}".to_owned()),
        ("52 unassigned", "\u{378}".to_owned()),
    ] {
        let mut wire = Wire::authenticated(&scene.broker, "anna");
        wire.begin();
        wire.send(bind(&resource));
        let said = wire.until("</iq>");
        scene.note(case, &said, "type='error'…<bad-request");
        // It may try again.
        wire.send(bind(&"r".repeat(1023)));
        let said = wire.until("</iq>");
        scene.note(case, &said, "type='result'");
    }
    scene.answered("51 second bind", &bind("second"), "type='error'…<not-allowed");
    let mut wire = Wire::authenticated(&scene.broker, "anna");
    wire.send(format!("{HEADER}<message to='fred@localhost/bystander'><body>x</body></message>"));
    let said = wire.drain();
    scene.note("51 a stanza before bind", &said, &error("not-authorized"));

    let mut old = Wire::available(&scene.broker, "bert", "same");
    let mut new = Wire::available(&scene.broker, "bert", "same");
    let said = old.drain();
    scene.note("53 conflict", &said, &error("conflict"));
    new.ping();
    let mut others: Vec<Wire> = (0..4).map(|at| Wire::login(&scene.broker, "bert", &format!("r{at}"))).collect();
    let mut wire = Wire::authenticated(&scene.broker, "bert");
    wire.begin();
    wire.send(bind("more"));
    let said = wire.until("</iq>");
    scene.note("54 resources", &said, "type='error'…<resource-constraint");
    others.iter_mut().for_each(|other| _ = other.ping());
    // One that is there already may be taken over all the same.
    wire.send(bind("r0"));
    let said = wire.until("</iq>");
    scene.note("54 a resource taken over", &said, "type='result'");
    let said = others[0].drain();
    scene.note("54 a resource taken over", &said, &error("conflict"));
    drop((wire, old, new, others));
    scene.close();
}

#[test]
fn names_that_are_the_same_are_one_account() {
    let mut scene = Scene::open("");
    scene.broker.cli(&["account", "add", "strasse@localhost", "--password", PASSWORD]);
    scene.broker.cli(&["account", "add", "straße@localhost", "--password", "another"]);
    scene.broker.cli(&["account", "add", "ilk@localhost", "--password", PASSWORD]);
    let cases = [
        ("55 full width", "ＡＮＮＡ", PASSWORD, "<success"),
        ("55 capitals", "STRASSE", PASSWORD, "<success"),
        ("55 sharp s is a letter of its own", "STRAßE", "another", "<success"),
        ("55 sharp s is a letter of its own", "STRAßE", PASSWORD, "<not-authorized"),
        ("55 I without a language", "ILK", PASSWORD, "<success"),
        ("55 dotted I is not i", "İLK", PASSWORD, "<not-authorized"),
        ("55 dotless i is not i", "ılk", PASSWORD, "<not-authorized"),
    ];
    for (case, name, password, expected) in cases {
        let mut wire = Wire::open(scene.broker.plain);
        let said = wire.scram(name, password);
        scene.note(case, &said, expected);
    }
    // Whoever adds an account meets the one that is there.
    for name in ["ＡＮＮＡ@localhost", "Anna@LOCALHOST", "STRASSE@localhost"] {
        let added = scene.broker.try_cli(&["account", "add", name, "--password", "theirs"]);
        scene.check("55 added twice", !added.status.success(), name);
    }
    let mut wire = Wire::open(scene.broker.plain);
    let said = wire.scram("anna", PASSWORD);
    scene.note("55 it is as it was", &said, "<success");
    drop(wire);
    scene.close();
}
