//! Decision support: what it costs to decide from ten rules, and to answer a device.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::iot::Interface;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::provisioning::{Kind, NodeRef, Query, Tokens};
use plaza_core::thing::NodeName;
use plaza_core::xml::Scanner;
use plaza_core::xml::read::Node;
use plaza_registry::provisioning::{Asked, Config, HomeThings, Limits, Proofs, answer, ask, decide, serve};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::store::{Batch, Store};
use plaza_registry::things::{State, ThingRecord};
use plaza_registry::wait::block_on;

const COMPONENT: &str = "things.things.example";
const DEVICE: &str = "sensor.0001@things.example";
const OWNER: &str = "owner@things.example";
const READ: &str = "<canRead xmlns='urn:nf:iot:prov:d:1.0' jid='controller-7@things.example' m='true' h='true'>\
                    <f n='Temperature'/><f n='Humidity'/></canRead>";

/// A thing whose owner has answered ten questions.
fn things() -> Box<HomeThings> {
    let (device, owner) = (Jid::parse(DEVICE).expect("an address"), Jid::parse(OWNER).expect("an address"));
    let (store, config) = (MemoryStore::new(), Config::new(Limits::DEFAULT, [7; 32]));
    let proofs = Proofs::default();
    let thing = ThingRecord {
        state: State::Claimed { owner: owner.clone(), public: true, removed: false },
        ..ThingRecord::new(device.clone(), NodeName::default())
    };
    block_on(store.commit(Batch { guards: Vec::new(), writes: vec![thing.put()] })).expect("a store in memory");
    let load = || block_on(HomeThings::load(&store, device.as_jid())).expect("a store in memory").expect("a thing");
    let component = Jid::parse(COMPONENT).expect("an address");
    for number in 0..10 {
        let remote = format!("controller-{number}@things.example");
        let question = READ.replace("controller-7@things.example", &remote);
        let answered = answer(Some(&*load()), device.as_jid(), COMPONENT, &question, (&proofs, 0)).expect("a question");
        let inquiry = answered.after.inquiry.expect("it is open");
        let tells = block_on(ask(&config, &store, &inquiry, number)).expect("a store in memory");
        let asked = tells.first().and_then(|tell| Node::parse(&tell.payload, "")).expect("a question");
        let key = asked.attr("key").expect("it has one");
        let ns = Interface::Owner.ns(plaza_core::iot::Generation::Nf);
        let rule = format!(
            "<canReadRule xmlns='{ns}' jid='{DEVICE}' remoteJid='{remote}' key='{key}' result='true'><fromJid/></canReadRule>"
        );
        let rule = Node::parse(&rule, "").expect("a rule");
        let iq = (plaza_core::stanza::IqType::Set, &rule);
        block_on(serve(&config, &store, owner.as_jid(), &component, iq, number)).expect("it is the owner's");
    }
    load()
}

fn provisioning(c: &mut Criterion) {
    let things = things();
    let device = JidRef::from_normal(DEVICE);
    let (mut scanner, tokens) = (Scanner::new(), Tokens::default());
    let query = Query::read(&mut scanner, READ).expect("a question");
    let mut group = c.benchmark_group("provisioning");
    group.throughput(Throughput::Elements(1));
    let names = [&query.names[..], &[]];
    for (id, names) in ["decide/10 rules, 2 fields", "decide/10 rules, all fields"].into_iter().zip(names) {
        let asked = Asked {
            kind: Kind::Read,
            asker: query.asker(),
            tokens: &tokens,
            nodes: &[NodeRef::DEVICE],
            categories: query.categories(),
            names,
        };
        assert!(decide(Some(&things), COMPONENT, asked).permission.is_some(), "it is allowed");
        group.bench_function(id, |b| b.iter(|| decide(Some(black_box(&things)), COMPONENT, black_box(asked))));
    }
    let proofs = Proofs::default();
    group.bench_function("answer/allowed", |b| {
        b.iter(|| answer(Some(black_box(&things)), device, COMPONENT, black_box(READ), (&proofs, 0)));
    });
    let denied = READ.replace("controller-7", "stranger");
    group.bench_function("answer/open", |b| {
        b.iter(|| answer(Some(black_box(&things)), device, COMPONENT, black_box(&denied), (&proofs, 0)));
    });
    group.finish();
}

criterion_group!(benches, provisioning);
criterion_main!(benches);
