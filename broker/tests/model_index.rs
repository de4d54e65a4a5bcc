//! The index against the dullest code that can be right: a list of filters, scanned with `Filter::matches`.

mod seeds;

use std::collections::BTreeSet;

use fastrand::Rng;
use tidegate::shard::index::{CacheLimits, Index};
use tidegate_protocol::{Filter, Topic};

#[test]
fn the_index_finds_what_a_scan_of_all_filters_would_find() {
    seeds::for_each_seed(2_000, |rng| {
        let limits = CacheLimits { topics: rng.usize(0..20), keys: rng.usize(0..60) };
        let mut index = Index::with_cache(limits);
        let mut model = BTreeSet::new();
        for step in 0..rng.usize(10..300) {
            match rng.u32(0..10) {
                0..4 => {
                    // Keys mostly grow, as connections' do.
                    let key = if rng.u32(0..4) == 0 { rng.usize(0..300) } else { step };
                    let filter = filter(rng);
                    assert_eq!(index.insert(&filter, key), model.insert((filter, key)));
                }
                4..6 => {
                    let (filter, key) = match model.iter().nth(rng.usize(0..model.len().max(1))) {
                        Some(known) if rng.u32(0..5) > 0 => known.clone(),
                        _ => (filter(rng), rng.usize(0..300)),
                    };
                    assert_eq!(index.remove(&filter, key), model.remove(&(filter, key)));
                }
                6 => {
                    let filter = filter(rng);
                    let expected = model.iter().filter(|(f, _)| *f == filter).map(|&(_, key)| key);
                    assert_eq!(index.under(&filter), expected.collect::<Vec<_>>());
                }
                _ => check(rng, &mut index, &model),
            }
            assert_eq!((index.len(), index.is_empty()), (model.len(), model.is_empty()));
        }
        for (filter, key) in std::mem::take(&mut model) {
            assert!(index.remove(&filter, key));
        }
        assert!(index.is_empty());
        check(rng, &mut index, &model);
    });
}

fn check(rng: &mut Rng, index: &mut Index<usize>, model: &BTreeSet<(Filter, usize)>) {
    let topic = &topic(rng);
    let of_kind = |is_wildcard| {
        let matching = model.iter().filter(|(f, _)| f.is_wildcard() == is_wildcard && f.matches(topic));
        matching.map(|&(_, key)| key).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    // A place may be the topic's, another one's or nobody's.
    let place = match rng.u32(0..3) {
        0 => None,
        1 => index.place(&Filter::parse(topic.as_str()).unwrap()),
        _ => Some(rng.u32(0..20)),
    };
    let matches = index.matches_at(topic, place);
    assert_eq!((matches.exact, matches.wild), (&of_kind(false)[..], &of_kind(true)[..]), "{topic}");
    let is_empty = matches.is_empty();
    assert_eq!(index.any_match(topic), !is_empty);
}

fn topic(rng: &mut Rng) -> Topic {
    Topic::parse(&tokens(rng, &["a", "b", "c", "$own"], &[])).unwrap()
}

fn filter(rng: &mut Rng) -> Filter {
    let wildcards: &[&str] = if rng.bool() { &[">"] } else { &[] };
    Filter::parse(&tokens(rng, &["a", "b", "c", "$own", "*", "*"], wildcards)).unwrap()
}

fn tokens(rng: &mut Rng, any: &[&str], last: &[&str]) -> String {
    let mut tokens = (0..rng.usize(0..4)).map(|_| any[rng.usize(0..any.len())]).collect::<Vec<_>>();
    tokens.extend(last);
    if tokens.is_empty() {
        tokens.push(any[0]);
    }
    tokens.join(".")
}
