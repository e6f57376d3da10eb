//! What is read, refused and taken for granted.

use plaza_core::limits::ScanLimits;
use plaza_registry::pubsub;
use plaza_registry::services::ServiceLimits;

use super::*;

fn problems(toml: &str) -> String {
    let config: Config = toml.parse().expect(toml);
    config.check().expect_err(toml).to_string()
}

#[test]
fn the_sample_equals_the_defaults_and_names_every_key() {
    assert_eq!(SAMPLE.parse::<Config>().unwrap(), Config::default());
    let sample: toml::Value = toml::from_str(SAMPLE).unwrap();
    for key in keys() {
        let found = key.split('.').try_fold(&sample, |value, part| {
            value.as_array().and_then(|array| array.first()).unwrap_or(value).get(part)
        });
        assert!(found.is_some(), "docs/plaza.toml lacks {key}");
    }
}

#[test]
fn the_operations_manual_names_every_key() {
    let manual = include_str!("../../../docs/operations.md");
    for key in keys() {
        assert!(manual.contains(&format!("`{key}`")), "docs/operations.md lacks `{key}`");
    }
}

#[test]
fn the_defaults_are_valid_and_have_a_shard_per_cpu() {
    let settings = Config::default().check().unwrap();
    assert_eq!(usize::from(settings.shards), cpus_available());
    assert_eq!(settings.domains[0].as_str(), "localhost");
    assert_eq!(settings.limits.before_auth, ScanLimits::BEFORE_AUTH);
    assert_eq!(settings.limits.after_auth, ScanLimits::AFTER_AUTH);
    assert_eq!(settings.limits.outbox_bytes_max, 1_048_576);
    assert_eq!(settings.limits.pubsub, pubsub::Limits::DEFAULT);
    assert_eq!(settings.things, ThingsLimits::DEFAULT);
    assert_eq!(settings.things_index, index::Limits::default());
    assert_eq!(settings.provisioning, ProvisioningLimits::DEFAULT);
    assert_eq!(settings.limits.services, ServiceLimits::DEFAULT);
    assert_eq!(settings.memory, crate::memory::Watermarks::default());
    assert!(settings.helper_threads >= 1);
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!("".parse::<Config>().unwrap(), Config::default());
    assert_eq!("[limits.after_auth]\n".parse::<Config>().unwrap(), Config::default());
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    let check = |toml: &str, expected: &str| {
        assert_eq!(toml.parse::<Config>().expect_err(toml).to_string(), expected);
    };
    check("domain = ['a.example']", "line 1: no such key `domain`; did you mean `domains`?");
    check(
        "\n\n[limits]\noutbox_byte_max = 1",
        "line 4: no such key `outbox_byte_max`; did you mean `outbox_bytes_max`?",
    );
    check("outbox_bytes_max = 1", "line 1: no such key `outbox_bytes_max`; did you mean `limits.outbox_bytes_max`?");
    check("[[listeners]]\naddress = '[::]:1'\ntsl = 'none'", "line 3: no such key `tsl`; did you mean `tls`?");
    check("[limits.before_auth]\ndepth = 1", "line 2: no such key `depth`; did you mean `depth_max`?");
    check("colour = 1", "line 1: no such key `colour`; `plaza config defaults` lists all keys");
}

#[test]
fn a_wrong_type_is_refused_with_its_line() {
    let error = "shards = 'many'".parse::<Config>().expect_err("text for a number").to_string();
    assert!(error.contains("line 1"), "{error}");
    let error = "[limits]\noutbox_bytes_max = '1 parsec'".parse::<Config>().expect_err("no size").to_string();
    assert!(error.contains("line 2") && error.contains("256 KiB"), "{error}");
    let error = "[limits]\nstop_deadline = '1 parsec'".parse::<Config>().expect_err("no time").to_string();
    assert!(error.contains("15s"), "{error}");
}

#[test]
fn every_range_is_checked_and_all_problems_are_told() {
    let all = problems(
        "shards = 300\nscram_iterations = 1\ndomains = []\nlisteners = []\n[limits]\nsasl_attempts_max = 9\n\
         pubsub_nodes_max = 0\npubsub_payload_bytes_max = '1 GiB'\n\
         [limits.after_auth]\nstanza_bytes_max = 9999\n[things]\npage_max = 0\npage_bytes_max = '1 GiB'\nsearch_work_max = '0s'\nsearches_max = 0\n\
             [provisioning]\nrules_per_thing_max = 0\n[metrics]\naddress = 'x'\n[log]\nlevel = 'plaza=loud'",
    );
    for key in [
        "shards = 300: must be between 0 and 256",
        "scram_iterations = 1: must be between 4096 and 1000000",
        "domains = []",
        "listeners = []",
        "limits.sasl_attempts_max = 9: must be between 2 and 5",
        "limits.pubsub_nodes_max = 0: must be between 1 and 100000",
        "limits.pubsub_payload_bytes_max = 1 GiB: must be between 1 KiB and 16 MiB",
        "limits.after_auth.stanza_bytes_max = 9999: must be between 10000 and 16 MiB",
        "things.page_max = 0: must be between 1 and 1000",
        "things.page_bytes_max = 1 GiB: must be between 16 KiB and 1 MiB",
        "things.search_work_max = 0s: must be between 1ms and 10s",
        "things.searches_max = 0: must be between 1 and 100000",
        "provisioning.rules_per_thing_max = 0: must be between 1 and 100000",
        "metrics.address = x",
        "log.level = plaza=loud",
    ] {
        assert!(all.contains(key), "{key} is not in\n{all}");
    }
}

#[test]
fn values_at_odds_are_refused() {
    let check = |toml: &str, expected: &str| {
        let told = problems(toml);
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    };
    check("[limits]\nnegotiation_timeout = '5s'", "no less than limits.handshake_timeout");
    check("[limits]\noutbox_bytes_max = '32 KiB'", "no less than limits.after_auth.stanza_bytes_max");
    check("[memory]\nwatermarks = [70, 70, 90]", "each greater than the one before");
    check("[memory]\nwatermarks = [70, 80, 101]", "from 10 to 100");
    check("[memory]\nlimit = '1 MiB'", "at least 16 MiB");
    check("[tls]\nkey = 'key.pem'", "accompanied by `tls.certificate`");
    check("shards = 3\ncpus = [0, 1]", "a CPU for every shard");
    check("cpus = [1, 1]", "named once each");
    check("domains = ['a.example', 'A.example']", "named once");
    check("domains = ['me@a.example']", "a domain name");
    check("[[listeners]]\naddress = '0.0.0.0:5222'\ntls = 'none'", "a loopback address");
    check("[[listeners]]\naddress = '[::]:1'\n[[listeners]]\naddress = '[::]:1'", "used once");
}

#[test]
fn plaintext_is_for_loopback_and_plain_stays_off_unless_asked() {
    let config: Config = "[[listeners]]\naddress = '127.0.0.1:5222'\ntls = 'none'\nplain = true".parse().unwrap();
    let settings = config.check().unwrap();
    let stream = settings.stream_config(&settings.listeners[0]);
    assert!(stream.plain_without_tls && !stream.tls_required && !stream.starttls);
    let settings = Config::default().check().unwrap();
    let stream = settings.stream_config(&settings.listeners[0]);
    assert!(!stream.plain && !stream.plain_without_tls && stream.tls_required && stream.starttls);
}

#[test]
fn dev_listens_on_loopback_only() {
    let settings = Config::default().on_loopback().check().unwrap();
    assert!(settings.listeners.iter().all(|listener| listener.address.ip().is_loopback()));
    assert_eq!(settings.listeners.iter().map(|listener| listener.address.port()).collect::<Vec<_>>(), [5222, 5223]);
    assert!(settings.metrics.unwrap().ip().is_loopback());
}

#[test]
fn given_cpus_decide_the_number_of_shards() {
    let config: Config = "cpus = [0, 2, 4]".parse().unwrap();
    assert_eq!(config.check().unwrap().shards, 3);
}
