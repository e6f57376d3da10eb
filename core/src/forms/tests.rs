//! Tests of the forms: XEP-0004's example, rows of wrong submissions, and writing then reading as identity.

use proptest::prelude::*;

use super::*;
use crate::jid::JidError;
use crate::stanza::Condition;
use crate::xml::read::Node;

/// The form of XEP-0004 §5.1, with our types where they say more.
fn bot() -> Form<'static> {
    let features = ["contests", "news", "polls", "reminders", "search"];
    let maxsubs = [("10", "10"), ("20", "20"), ("none", "None")].map(|(value, label)| Choice { value, label });
    Form {
        title: "Bot Configuration",
        instructions: "Fill out this form to configure your new bot!",
        ..Form::new(
            "jabber:bot",
            vec![
                Field::fixed("Section 1: Bot Info"),
                Field::new("botname", "The name of your bot", Kind::TextSingle),
                Field::new("description", "Helpful description of your bot", Kind::TextMulti),
                Field::new("public", "Public bot?", Kind::Boolean).required(),
                Field::new("password", "Password for special access", Kind::TextPrivate),
                Field::new("features", "What features will the bot support?", Kind::some_of(&features)),
                Field::new("maxsubs", "", Kind::ListSingle { choices: maxsubs.to_vec(), open: false }),
                Field::new("invitelist", "People to invite", Kind::JidMulti),
                Field::new("owner", "", Kind::JidSingle),
                Field::new("rate", "", Kind::Integer { min: -5, max: 100 }),
                Field::new("keep", "", Kind::IntegerOrMax { min: 1, max: 10 }),
                Field::new("until", "", Kind::DateTime),
                Field::new("tags", "", Kind::ListMulti { choices: vec![Choice::plain("a")], open: true }),
                Field::new("token", "", Kind::Hidden),
            ],
        )
    }
}

fn written(form: &Form<'_>, kind: FormKind, values: &Values) -> String {
    let mut out = Vec::new();
    form.write(&mut out, kind, values);
    String::from_utf8(out).unwrap()
}

fn read(fields: &str) -> Result<Submission, FormError> {
    let x = format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>jabber:bot</value></field>\
         <field var='public'><value>0</value></field>{fields}</x>"
    );
    bot().read(&Node::parse(&x, "").unwrap(), &FormLimits::DEFAULT)
}

fn value(var: &str, fields: &str) -> Value {
    match read(fields) {
        Ok(Submission::Submitted(submitted)) => submitted.values.get(var).unwrap().clone(),
        other => panic!("{fields}: {other:?}"),
    }
}

#[test]
fn a_form_asks_with_all_it_has() {
    let values = Values::new()
        .with("features", vec!["news".to_owned(), "search".to_owned()])
        .with("maxsubs", "20")
        .with("rate", 7_i64);
    assert_eq!(
        written(&bot(), FormKind::Form, &values),
        "<x xmlns='jabber:x:data' type='form'><title>Bot Configuration</title>\
         <instructions>Fill out this form to configure your new bot!</instructions>\
         <field var='FORM_TYPE' type='hidden'><value>jabber:bot</value></field>\
         <field type='fixed'><value>Section 1: Bot Info</value></field>\
         <field var='botname' type='text-single' label='The name of your bot'></field>\
         <field var='description' type='text-multi' label='Helpful description of your bot'></field>\
         <field var='public' type='boolean' label='Public bot?'><required/></field>\
         <field var='password' type='text-private' label='Password for special access'></field>\
         <field var='features' type='list-multi' label='What features will the bot support?'>\
         <value>news</value><value>search</value><option><value>contests</value></option>\
         <option><value>news</value></option><option><value>polls</value></option>\
         <option><value>reminders</value></option><option><value>search</value></option></field>\
         <field var='maxsubs' type='list-single'><value>20</value><option label='10'><value>10</value></option>\
         <option label='20'><value>20</value></option><option label='None'><value>none</value></option></field>\
         <field var='invitelist' type='jid-multi' label='People to invite'></field>\
         <field var='owner' type='jid-single'></field>\
         <field var='rate' type='text-single'>\
         <validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:integer'>\
         <range min='-5' max='100'/></validate><value>7</value></field>\
         <field var='keep' type='text-single'>\
         <validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='pubsub:integer-or-max'>\
         <range min='1' max='10'/></validate></field>\
         <field var='until' type='text-single'>\
         <validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:dateTime'><basic/></validate></field>\
         <field var='tags' type='list-multi'>\
         <validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'><open/></validate>\
         <option><value>a</value></option></field>\
         <field var='token' type='hidden'></field></x>"
    );
}

#[test]
fn a_result_tells_what_has_a_value() {
    let values = Values::new().with("public", true).with("owner", Jid::parse("a@b").unwrap()).with("botname", "a<b");
    assert_eq!(
        written(&bot(), FormKind::Result, &values),
        "<x xmlns='jabber:x:data' type='result'>\
         <field var='FORM_TYPE' type='hidden'><value>jabber:bot</value></field>\
         <field var='botname' type='text-single'><value>a&lt;b</value></field>\
         <field var='public' type='boolean'><value>true</value></field>\
         <field var='owner' type='jid-single'><value>a@b</value></field></x>"
    );
    assert_eq!(written(&bot(), FormKind::Cancel, &values), "<x xmlns='jabber:x:data' type='cancel'/>");
}

#[test]
fn the_submission_of_xep_0004_section_5_1_is_read() {
    let x = "<x xmlns='jabber:x:data' type='submit'>
        <field type='hidden' var='FORM_TYPE'><value>jabber:bot</value></field>
        <field type='text-single' var='botname'><value>The Jabber Google Bot</value></field>
        <field type='text-multi' var='description'><value>This bot enables you to send requests to</value>
          <value>Google and receive the search results right</value></field>
        <field type='boolean' var='public'><value>0</value></field>
        <field type='text-private' var='password'><value>v3r0na</value></field>
        <field type='list-multi' var='features'><value>news</value><value>search</value></field>
        <field type='list-single' var='maxsubs'><value>10</value></field>
        <field type='jid-multi' var='invitelist'>
          <value>juliet@capulet.com</value><value>Benvolio@montague.net</value></field></x>";
    let x = Node::parse(x, "").unwrap();
    assert_eq!(form_type(&x), Some("jabber:bot"));
    let Ok(Submission::Submitted(read)) = bot().read(&x, &FormLimits::DEFAULT) else { panic!("not read") };
    let jids = ["juliet@capulet.com", "benvolio@montague.net"].map(|jid| Jid::parse(jid).unwrap()).to_vec();
    let expected = Values::new()
        .with("botname", "The Jabber Google Bot")
        .with(
            "description",
            vec![
                "This bot enables you to send requests to".to_owned(),
                "Google and receive the search results right".to_owned(),
            ],
        )
        .with("public", false)
        .with("password", "v3r0na")
        .with("features", vec!["news".to_owned(), "search".to_owned()])
        .with("maxsubs", "10")
        .with("invitelist", jids);
    assert_eq!(read, Submitted { values: expected, unknown: vec![] });
    assert_eq!(read.values.boolean("public"), Some(false));
    assert_eq!(read.values.text("botname"), Some("The Jabber Google Bot"));
    assert_eq!(read.values.texts("features").map(<[String]>::len), Some(2));
    assert_eq!((read.values.integer("rate"), read.values.jid("owner")), (None, None));
}

#[test]
fn values_are_read_as_what_the_description_says() {
    #[track_caller]
    fn check(var: &str, values: &[&str], expected: impl Into<Value>) {
        let values: String = values.iter().map(|value| format!("<value>{value}</value>")).collect();
        // The type that the submission claims does not matter.
        let field = format!("<field var='{var}' type='boolean'>{values}</field>");
        assert_eq!(value(var, &field), expected.into(), "{var} {values}");
    }
    let x = "<x xmlns='jabber:x:data' type='submit'>\
             <field var='FORM_TYPE'><value>jabber:bot</value></field><field var='public'><value>V</value></field></x>";
    for (spelling, expected) in [("1", true), ("true", true), ("0", false), ("false", false)] {
        let x = Node::parse(&x.replace('V', spelling), "").unwrap();
        let Ok(Submission::Submitted(read)) = bot().read(&x, &FormLimits::DEFAULT) else { panic!("{spelling}") };
        assert_eq!(read.values.boolean("public"), Some(expected));
    }
    check("rate", &["-5"], -5_i64);
    check("rate", &["+007"], 7_i64);
    check("keep", &["max"], Value::Max);
    check("keep", &["10"], 10_i64);
    check("until", &["1970-01-01T00:00:01Z"], DateTime::from_unix_millis(1_000));
    check("owner", &["Bard@Shakespeare.lit/Globe"], Jid::parse("bard@shakespeare.lit/Globe").unwrap());
    check("invitelist", &["a@b", "A@b", "c@d"], vec![Jid::parse("a@b").unwrap(), Jid::parse("c@d").unwrap()]);
    check("invitelist", &[""], Vec::<Jid>::new());
    check("features", &["news", "polls", "news"], vec!["news".to_owned(), "polls".to_owned()]);
    check("features", &[], Vec::<String>::new());
    check("tags", &["b", "a"], vec!["b".to_owned(), "a".to_owned()]);
    check("description", &["a", "", "a"], vec!["a".to_owned(), String::new(), "a".to_owned()]);
    check("token", &["t"], "t");
    check("botname", &[], "");
    for var in ["rate", "keep", "until", "owner", "maxsubs"] {
        check(var, &[], Value::Empty);
        check(var, &[""], Value::Empty);
    }
}

#[test]
fn what_may_not_stand_in_a_field_is_refused_with_its_reason() {
    #[track_caller]
    fn check(var: &str, values: &[&str], reason: Reason) {
        let values: String = values.iter().map(|value| format!("<value>{value}</value>")).collect();
        let error = read(&format!("<field var='{var}'>{values}</field>")).unwrap_err();
        assert_eq!(error, FormError::Invalid { var: var.to_owned(), reason });
        assert_eq!(error.condition(), Condition::NotAcceptable);
    }
    check("rate", &["x"], Reason::NotAnInteger);
    check("rate", &["1.0"], Reason::NotAnInteger);
    check("rate", &[" 1"], Reason::NotAnInteger);
    check("rate", &["-"], Reason::NotAnInteger);
    check("rate", &["٣"], Reason::NotAnInteger);
    check("rate", &["max"], Reason::NotAnInteger);
    check("rate", &["101"], Reason::OutOfRange { min: -5, max: 100 });
    check("rate", &["-6"], Reason::OutOfRange { min: -5, max: 100 });
    check("rate", &["99999999999999999999"], Reason::OutOfRange { min: -5, max: 100 });
    check("rate", &["1", "2"], Reason::SeveralValues);
    check("keep", &["0"], Reason::OutOfRange { min: 1, max: 10 });
    check("keep", &["MAX"], Reason::NotAnInteger);
    check("until", &["tomorrow"], Reason::NotADateTime);
    check("owner", &["@b"], Reason::NotAJid(JidError::Local));
    check("invitelist", &["a@b", "a@"], Reason::NotAJid(JidError::Domain));
    check("maxsubs", &["11"], Reason::NotAChoice);
    check("features", &["news", "song"], Reason::NotAChoice);
    check("botname", &["a", "b"], Reason::SeveralValues);
    let twice = read("<field var='rate'><value>1</value></field><field var='rate'><value>2</value></field>");
    assert_eq!(twice, Err(FormError::Duplicate("rate".to_owned())));
    assert_eq!(read("<field><value>1</value></field>"), Err(FormError::Duplicate(String::new())));
    assert_eq!(read("<field var='public'/>"), Err(FormError::Duplicate("public".to_owned())));
}

#[test]
fn what_is_no_submission_of_this_form_is_refused() {
    #[track_caller]
    fn check(x: &str, expected: Result<Submission, FormError>) {
        assert_eq!(bot().read(&Node::parse(x, "").unwrap(), &FormLimits::DEFAULT), expected, "{x}");
    }
    let with = |kind: &str, form_type: &str| {
        format!(
            "<x xmlns='jabber:x:data' type='{kind}'><field var='FORM_TYPE'><value>{form_type}</value></field>\
             <field var='public'><value>1</value></field></x>"
        )
    };
    check(&with("cancel", "whatever"), Ok(Submission::Cancelled));
    check("<x xmlns='jabber:x:data' type='cancel'/>", Ok(Submission::Cancelled));
    check(&with("submit", "jabber:other"), Err(FormError::FormTypeUnknown));
    check("<x xmlns='jabber:x:data' type='submit'/>", Err(FormError::FormTypeMissing));
    check(&with("form", "jabber:bot"), Err(FormError::NotASubmission));
    check(&with("result", "jabber:bot"), Err(FormError::NotASubmission));
    check(&with("other", "jabber:bot"), Err(FormError::NotASubmission));
    check("<x xmlns='jabber:x:data'/>", Err(FormError::NotASubmission));
    check("<x type='submit'/>", Err(FormError::NotASubmission));
    check("<y xmlns='jabber:x:data' type='submit'/>", Err(FormError::NotASubmission));
    let without = with("submit", "jabber:bot").replace("<value>1</value>", "");
    check(&without, Err(FormError::Missing("public".to_owned())));
    check(&without.replace("var='public'", "var='x'"), Err(FormError::Missing("public".to_owned())));
}

#[test]
fn fields_of_no_concern_are_named_and_fixed_ones_passed_over() {
    let fields = "<field type='fixed'><value>Section 1</value></field><field var='x'/><field var='y'><value/></field>\
                  <reported/><field xmlns='other' var='x'/>";
    let Ok(Submission::Submitted(read)) = read(fields) else { panic!("not read") };
    assert_eq!(read.unknown, ["x", "y"]);
    assert_eq!(read.values, Values::new().with("public", false));
}

#[test]
fn a_form_type_counts_in_a_form_only_if_it_is_hidden() {
    let check = |kind: &str, attrs: &str, expected: Option<&str>| {
        let x = format!(
            "<x xmlns='jabber:x:data' type='{kind}'><field var='FORM_TYPE'{attrs}><value>t</value></field></x>"
        );
        assert_eq!(form_type(&Node::parse(&x, "").unwrap()), expected, "{x}");
    };
    check("form", " type='hidden'", Some("t"));
    check("form", "", None);
    check("result", " type='text-single'", None);
    check("submit", "", Some("t"));
    check("odd", "", None);
}

#[test]
fn a_form_too_large_is_refused_by_the_limit_it_passes() {
    let limits = FormLimits { fields_max: 4, values_max: 2, value_bytes_max: 10 };
    let read = |fields: &str| {
        let x = format!(
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>jabber:bot</value></field>\
             <field var='public'><value>1</value></field>{fields}</x>"
        );
        bot().read(&Node::parse(&x, "").unwrap(), &limits).map(drop)
    };
    assert_eq!(read("<field var='a'/><field var='b'/>"), Ok(()));
    assert_eq!(read("<field var='a'/><field var='b'/><field var='c'/>"), Err(FormError::Limit("fields_max")));
    assert_eq!(read("<field var='tags'><value/><value/></field>"), Ok(()));
    assert_eq!(read("<field var='x'><value/><value/><value/></field>"), Err(FormError::Limit("values_max")));
    assert_eq!(read("<field var='x'><value>12345678901</value></field>"), Err(FormError::Limit("value_bytes_max")));
    assert_eq!(read("<field var='x2345678901'/>"), Err(FormError::Limit("value_bytes_max")));
}

#[test]
fn errors_say_what_to_change() {
    let error = read("<field var='rate'><value>101</value></field>").unwrap_err();
    assert_eq!(error.to_string(), "a number is out of range: \"rate\", -5 to 100");
    assert_eq!(error.text(), "a number is out of range");
    assert_eq!(FormError::FormTypeMissing.condition(), Condition::BadRequest);
    assert_eq!(FormError::Limit("fields_max").to_string(), "the form is too large: fields_max");
}

#[test]
fn names_of_kinds_lead_back() {
    for kind in FormKind::ALL {
        assert_eq!(FormKind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(FormKind::from_name("error"), None);
}

/// A field of any type with a value that may stand in it.
fn field_with_value() -> impl Strategy<Value = (Kind<'static>, Value)> {
    const CHOICES: [&str; 3] = ["a", "b <&>'\"", "ä"];
    let text = "[^\\p{C}]{0,12}|[\\r\\n\\t ]{0,3}";
    let jids = ["a@b", "b", "ä@ö.example/R <&>"].map(|jid| Jid::parse(jid).unwrap());
    let jid = prop::sample::select(jids.to_vec());
    let open = || Kind::ListMulti { choices: vec![Choice::plain("a")], open: true };
    let multi = |values: Vec<String>| {
        let mut distinct: Vec<String> = Vec::new();
        values.into_iter().for_each(|value| {
            if !distinct.contains(&value) {
                distinct.push(value);
            }
        });
        Value::Texts(distinct)
    };
    prop_oneof![
        any::<bool>().prop_map(|value| (Kind::Boolean, value.into())),
        text.prop_map(|value| (Kind::TextSingle, Value::Text(value))),
        text.prop_map(|value| (Kind::TextPrivate, Value::Text(value))),
        text.prop_map(|value| (Kind::Hidden, Value::Text(value))),
        prop::collection::vec(text, 0..4).prop_map(|values| (Kind::TextMulti, Value::Texts(values))),
        prop::collection::vec(text, 0..4).prop_map(move |values| (open(), multi(values))),
        prop::sample::subsequence(CHOICES.to_vec(), 0..=3).prop_map(|chosen| {
            (Kind::some_of(&CHOICES), Value::Texts(chosen.into_iter().map(str::to_owned).collect()))
        }),
        prop::sample::select(CHOICES.to_vec()).prop_map(|chosen| (Kind::one_of(&CHOICES), chosen.into())),
        jid.clone().prop_map(|jid| (Kind::JidSingle, jid.into())),
        prop::sample::subsequence(jids.to_vec(), 0..=3).prop_map(|jids| (Kind::JidMulti, jids.into())),
        any::<i64>().prop_map(|value| (Kind::Integer { min: i64::MIN, max: i64::MAX }, value.into())),
        (1..100_i64).prop_map(|value| (Kind::IntegerOrMax { min: 1, max: 100 }, value.into())),
        Just((Kind::IntegerOrMax { min: 1, max: 100 }, Value::Max)),
        any::<u64>().prop_map(|moment| (Kind::DateTime, DateTime::from_unix_millis(moment).into())),
        Just((Kind::DateTime, Value::Empty)),
    ]
}

proptest! {
    #[test]
    fn what_is_submitted_reads_back_as_what_was_written(fields in prop::collection::vec(field_with_value(), 0..8)) {
        let names: Vec<String> = (0..fields.len()).map(|index| format!("field#{index} '<&>")).collect();
        let mut values = Values::new();
        let mut described = Vec::new();
        for (name, (kind, value)) in names.iter().zip(fields) {
            described.push(Field::new(name, "label", kind));
            values.set(name, value);
        }
        let form = Form::new("urn:example:form", described);
        let x = Node::parse(&written(&form, FormKind::Submit, &values), "").expect("well-formed");
        let submitted = Submitted { values: values.clone(), unknown: vec![] };
        prop_assert_eq!(form.read(&x, &FormLimits::DEFAULT), Ok(Submission::Submitted(submitted)));

        // A form shown and sent back as it is changes nothing either.
        let shown = written(&form, FormKind::Form, &values).replacen("type='form'", "type='submit'", 1);
        let Ok(Submission::Submitted(read)) = form.read(&Node::parse(&shown, "").unwrap(), &FormLimits::DEFAULT) else {
            return Err(TestCaseError::fail(shown));
        };
        prop_assert_eq!(read.values, values);
    }

    #[test]
    fn no_form_makes_the_reader_panic(inside in "(<field var='[a-z]{0,6}'>|</field>|<value>|</value>|[a-z0-9]{1,4}|<x/>){0,24}") {
        let x = format!("<x xmlns='jabber:x:data' type='submit'>{inside}</x>");
        if let Some(node) = Node::parse(&x, "") {
            let _ = bot().read(&node, &FormLimits::DEFAULT);
        }
    }
}
