use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A key as [`key::Key`] makes it, for a name of that many octets or a few more.
fn key(text: &str) -> Vec<u8> {
    let mut key: Vec<u8> = text
        .split('.')
        .flat_map(|label| std::iter::once(u8::try_from(label.len()).unwrap()).chain(label.bytes()))
        .collect();
    key.extend([0, 0, 1, 0, 1, 1]);
    key
}

/// An answer with one address and that TTL.
fn reply(ttl: u8, octets: usize) -> Arc<Reply> {
    let mut message = vec![0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend([1, b'a', 0, 0, 16, 0, 1, 1, b'a', 0, 0, 16, 0, 1, 0, 0, 0, ttl]);
    message.extend(u16::try_from(octets).unwrap().to_be_bytes());
    message.resize(message.len() + octets, 0);
    Arc::new(Reply::read(&message).unwrap())
}

fn store(cache: &Cache, name: &str, reply: &Arc<Reply>, now: Instant) {
    cache.store(&key(name), reply, cache.generation(), now);
}

fn fail(cache: &Cache, name: &str, now: Instant) {
    cache.fail(&key(name), cache.generation(), now);
}

fn is_fresh(cache: &Cache, name: &str, now: Instant) -> bool {
    matches!(cache.known(&key(name), now), Found::Fresh(..))
}

const ROOM: usize = 1024 * 1024;

#[test]
fn an_answer_is_fresh_then_stale_for_a_day_then_nothing() {
    let (cache, now) = (Cache::new(ROOM), Instant::now());
    let answer = reply(60, 4);
    store(&cache, "a.b", &answer, now);
    let at = |seconds: u32| cache.look(&key("a.b"), now + SECOND * seconds);
    assert_eq!(at(0), Found::Fresh(Arc::clone(&answer), 0));
    assert_eq!(at(59), Found::Fresh(Arc::clone(&answer), 59));
    assert_eq!(at(60), Found::Stale(Arc::clone(&answer), Again::Now));
    assert!(!is_fresh(&cache, "a.b", now + 60 * SECOND));
    assert_eq!(at(60 + 86_399), Found::Stale(answer, Again::Now));
    assert_eq!(at(60 + 86_400), Found::Nothing);
    assert_eq!(cache.look(&key("a"), now), Found::Nothing);
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.misses, counts.entries), (2, 4, 1));
}

#[test]
fn failures_are_remembered_for_longer_each_time_and_an_answer_ends_that() {
    let (cache, mut now) = (Cache::new(ROOM), Instant::now());
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        fail(&cache, "a", now);
        let pause = SECOND * seconds;
        assert_eq!(cache.look(&key("a"), now + pause - SECOND / 1000), Found::Failed, "{seconds}");
        now += pause;
        assert_eq!(cache.look(&key("a"), now), Found::Nothing, "{seconds}");
    }
    let answer = reply(60, 4);
    store(&cache, "a", &answer, now);
    assert_eq!(cache.look(&key("a"), now), Found::Fresh(Arc::clone(&answer), 0));
    now += 60 * SECOND;
    fail(&cache, "a", now);
    assert_eq!(cache.look(&key("a"), now + 29 * SECOND), Found::Stale(Arc::clone(&answer), Again::NotYet));
    assert_eq!(cache.look(&key("a"), now + 30 * SECOND), Found::Stale(answer, Again::Now));
}

#[test]
fn an_answer_without_a_lifetime_is_not_kept_and_takes_the_older_one_along() {
    let (cache, now) = (Cache::new(ROOM), Instant::now());
    store(&cache, "a", &reply(60, 4), now);
    store(&cache, "a", &reply(0, 4), now);
    assert_eq!((cache.look(&key("a"), now), cache.counts().octets), (Found::Nothing, 0));
}

#[test]
fn other_upstreams_make_nothing_fresh_any_more_and_failures_void() {
    let (cache, now) = (Cache::new(ROOM), Instant::now());
    let answer = reply(60, 4);
    store(&cache, "a", &answer, now);
    fail(&cache, "b", now);
    let before = cache.generation();
    cache.outdate();
    assert_eq!(cache.look(&key("a"), now), Found::Stale(Arc::clone(&answer), Again::Now));
    assert_eq!(cache.look(&key("b"), now), Found::Nothing);
    fail(&cache, "a", now);
    assert_eq!(cache.look(&key("a"), now), Found::Stale(Arc::clone(&answer), Again::NotYet), "not fresh by failing");
    cache.store(&key("c"), &answer, before, now);
    assert_eq!(cache.look(&key("c"), now), Found::Stale(answer, Again::Now), "asked for before");
    store(&cache, "d", &reply(60, 4), now);
    for name in ["d", "e"] {
        cache.fail(&key(name), before, now);
    }
    assert!(is_fresh(&cache, "d", now), "the others have not failed");
    assert_eq!(cache.look(&key("e"), now), Found::Nothing, "nor here");
}

#[test]
fn a_flood_of_random_names_leaves_what_is_used_and_the_bound_holds() {
    let (cache, now) = (Cache::new(ROOM), Instant::now());
    let used: Vec<String> = (0..400).map(|i| format!("used{i}.example")).collect();
    for name in &used {
        store(&cache, name, &reply(250, 100), now);
    }
    for _ in 0..2 {
        assert!(used.iter().all(|name| is_fresh(&cache, name, now)));
    }
    let mut most = 0;
    for i in 0..100_000 {
        store(&cache, &format!("flood{i}.example"), &reply(250, 100), now);
        most = most.max(if i % 100 == 0 { cache.counts().octets } else { 0 });
    }
    let kept = used.iter().filter(|name| is_fresh(&cache, name, now)).count();
    assert_eq!(kept, used.len());
    let counts = cache.counts();
    assert!(most <= counts.limit && counts.limit <= ROOM as u64, "{most} of {}", counts.limit);
    assert!(counts.octets > counts.limit / 2 && counts.evictions > 90_000, "{counts:?}");
}

#[test]
fn who_is_asked_for_again_after_its_end_is_used() {
    let (cache, mut now) = (Cache::new(MIN_SHARD), Instant::now());
    for _ in 0..3 {
        store(&cache, "seldom.example", &reply(30, 100), now);
        now += 60 * SECOND;
        assert!(matches!(cache.look(&key("seldom.example"), now), Found::Stale(..)));
    }
    (0..1000).for_each(|i| store(&cache, &format!("flood{i}.example"), &reply(250, 100), now));
    assert!(is_here(&cache, "seldom.example"), "for when its upstream is gone");
}

#[test]
fn what_comes_back_soon_after_it_went_is_protected() {
    let (cache, now) = (Cache::new(MIN_SHARD), Instant::now());
    store(&cache, "back.example", &reply(250, 100), now);
    let flood = |from: u32, count: u32| {
        (from..from + count).for_each(|i| store(&cache, &format!("flood{i}.example"), &reply(250, 100), now));
    };
    let mut next = 0;
    while is_here(&cache, "back.example") {
        flood(next, 1);
        next += 1;
    }
    store(&cache, "back.example", &reply(250, 100), now);
    flood(next, 10_000);
    assert!(is_here(&cache, "back.example"));
}

/// Looks without being seen.
fn is_here(cache: &Cache, name: &str) -> bool {
    let (hash, mut shard) = cache.shard(&key(name));
    shard.get(hash, &key(name)).is_some()
}

#[test]
fn what_is_too_large_stays_out_and_nothing_fits_into_no_cache() {
    let (small, none, now) = (Cache::new(MIN_SHARD), Cache::new(0), Instant::now());
    store(&small, "large", &reply(60, 30_000), now);
    assert!(!is_fresh(&small, "large", now));
    store(&small, "fits", &reply(60, 4_000), now);
    assert!(is_fresh(&small, "fits", now));
    store(&none, "a", &reply(60, 4), now);
    fail(&none, "b", now);
    assert_eq!((none.look(&key("a"), now), none.look(&key("b"), now)), (Found::Nothing, Found::Nothing));
    assert_eq!((none.counts().limit, none.counts().entries), (0, 0));
}

#[test]
fn an_entry_that_grows_is_counted_anew() {
    let (cache, now) = (Cache::new(ROOM), Instant::now());
    store(&cache, "a", &reply(60, 4), now);
    let before = cache.counts().octets;
    store(&cache, "a", &reply(60, 1004), now);
    assert_eq!(cache.counts().octets, before + 1000);
    store(&cache, "a", &reply(60, 4), now);
    assert_eq!(cache.counts().octets, before);
}

#[test]
fn flushing_a_name_takes_what_is_below_it_and_nothing_beside_it() {
    let (cache, now) = (Cache::new(ROOM), Instant::now());
    let names = ["example", "a.example", "b.a.example", "xa.example", "a.example.org", "org"];
    names.iter().for_each(|name| store(&cache, name, &reply(60, 4), now));
    assert_eq!(cache.flush(Some(b"\x01a\x07example\0")), 2);
    let left: Vec<&str> = names.into_iter().filter(|name| is_fresh(&cache, name, now)).collect();
    assert_eq!(left, ["example", "xa.example", "a.example.org", "org"]);
    assert_eq!(cache.flush(None), 4);
    assert_eq!((cache.counts().entries, cache.counts().octets), (0, 0));
    // What was flushed leaves nothing behind that would confuse those who come later.
    (0..10_000).for_each(|i| store(&cache, &format!("n{i}"), &reply(60, 4), now));
    assert!(is_fresh(&cache, "n9999", now));
}
