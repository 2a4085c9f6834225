//! Webhooks and programs that are told.

use super::*;

/// A web server that answers with the given statuses, one connection each, and what was asked of it.
async fn server(statuses: Vec<u16>) -> (http::Uri, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?key=1", listener.local_addr().unwrap()).parse().unwrap();
    let (seen, requests) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            while !text.ends_with("}") {
                let mut chunk = [0; 4096];
                let n = stream.read(&mut chunk).await.unwrap();
                text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
            }
            seen.send(text).await.unwrap();
            if status > 0 {
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (url, requests)
}

fn hook(url: http::Uri, retries: u32) -> Webhook {
    let headers = vec![("x-token".parse().unwrap(), "secret".parse().unwrap())];
    Webhook { url, headers, timeout: Duration::from_millis(500), retries }
}

fn posting(webhook: Webhook, repeat: Duration) -> Alarms {
    Alarms::new(Policy { repeat, webhook: Some(webhook), ..Policy::default() })
}

async fn status_of(requests: &mut tokio::sync::mpsc::Receiver<String>) -> (String, u64) {
    let body = json_of(&timeout(LIMIT, requests.recv()).await.expect("nothing is told").unwrap());
    (body["status"].as_str().unwrap().to_owned(), body["count"].as_u64().unwrap())
}

fn json_of(request: &str) -> serde_json::Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_webhook_hears_of_an_alarm_and_of_its_end() {
    let (url, mut requests) = server(vec![204, 200]).await;
    let alarms = posting(hook(url, 0), at(3600));
    let _running = alarms.start();
    alarms.raise(raised(Kind::Hung, Some(2), "no heartbeat"));
    alarms.raise(raised(Kind::Hung, Some(2), "still none"));
    alarms.clear(Kind::Hung, &"chat".into(), Some(Slot(2)));
    let first = timeout(LIMIT, requests.recv()).await.unwrap().unwrap();
    let head = first.to_lowercase();
    for part in
        ["post /hook?key=1 http/1.1\r\n", "content-type: application/json", "x-token: secret", "host: 127.0.0.1:"]
    {
        assert!(head.contains(part), "{first}");
    }
    let body = json_of(&first);
    assert_eq!((&body["status"], &body["kind"], &body["slot"]), (&"raised".into(), &"hung".into(), &2.into()));
    let second = json_of(&timeout(LIMIT, requests.recv()).await.unwrap().unwrap());
    assert_eq!((&second["status"], &second["detail"]), (&"resolved".into(), &"still none".into()));
}

async fn counted(alarms: &Alarms, what: fn(&delivery::Counts) -> &std::sync::atomic::AtomicU64, wanted: u64) {
    let outlet = alarms.outlets().next().unwrap();
    let wait = async {
        while what(&outlet.counts).load(Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{:?}", outlet.counts));
}

#[tokio::test]
async fn a_webhook_that_fails_is_tried_again_and_one_that_refuses_is_not() {
    // In trouble, silent, then well.
    let (url, mut requests) = server(vec![503, 0, 200]).await;
    let alarms = posting(hook(url, 5), at(3600));
    let _running = alarms.start();
    alarms.raise(raised(Kind::Hung, Some(2), "x"));
    counted(&alarms, |counts| &counts.delivered, 1).await;
    let mut bodies = Vec::new();
    while let Ok(request) = requests.try_recv() {
        bodies.push(json_of(&request));
    }
    assert!(bodies.len() == 3 && bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");

    let (url, mut requests) = server(vec![401, 200]).await;
    let alarms = posting(hook(url, 5), at(3600));
    let _running = alarms.start();
    alarms.raise(raised(Kind::Hung, Some(2), "x"));
    counted(&alarms, |counts| &counts.failed, 1).await;
    assert!(requests.try_recv().is_ok() && requests.try_recv().is_err());
}

#[tokio::test]
async fn a_webhook_that_hangs_holds_nobody_up_and_what_waits_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let alarms = posting(Webhook { timeout: Duration::from_secs(60), ..hook(url, 0) }, at(3600));
    let _running = alarms.start();
    let began = Instant::now();
    (0..1000).for_each(|slot| alarms.raise(raised(Kind::Hung, Some(slot), "x")));
    assert!(began.elapsed() < Duration::from_secs(2));
    let dropped = alarms.outlets().next().unwrap().counts.dropped.load(Relaxed);
    assert!((700..=745).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn a_webhook_that_is_not_there_is_an_error() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        "http://no-such-host.invalid/".into(),
        format!("https://127.0.0.1:{port}/"),
    ] {
        let refused = Arc::new(hook(url.parse().unwrap(), 0)).post("{}").await.unwrap_err();
        assert!(refused.again, "{refused:?}");
    }
}

#[tokio::test]
async fn a_program_gets_the_alarm() {
    let dir = std::env::temp_dir().join(format!("pup-alarm-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let script = format!(
        "cd {}; cat > stdin; printf %s \"$ALARM\" > variable; env | grep ^ALARM_ | sort > parts; touch done",
        dir.display()
    );
    let alarms = Alarms::new(Policy { exec: ["sh", "-c", &script].map(str::to_owned).into(), ..Policy::default() });
    let _running = alarms.start();
    alarms.raise(raised(Kind::CannotScale, None, "no \0memory"));
    counted(&alarms, |counts| &counts.delivered, 1).await;
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let parts: HashMap<String, String> =
        read("parts").lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    let expected = [
        ("ALARM_APP", "chat"),
        ("ALARM_DETAIL", "no memory"),
        ("ALARM_KIND", "cannot-scale"),
        ("ALARM_SLOT", ""),
        ("ALARM_STATUS", "raised"),
    ];
    assert_eq!(parts, expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    assert_eq!(read("stdin").trim_end(), read("variable"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("stdin")).unwrap()["detail"], "no \0memory");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_program_that_fails_or_is_not_there_is_counted() {
    for command in [vec!["false"], vec!["/no/such/program"]] {
        let exec = command.into_iter().map(str::to_owned).collect();
        let alarms = Alarms::new(Policy { exec, ..Policy::default() });
        let _running = alarms.start();
        alarms.raise(raised(Kind::Hung, None, "x"));
        counted(&alarms, |counts| &counts.failed, 1).await;
    }
}

#[tokio::test]
async fn what_was_measured_is_judged_and_repeated() {
    let (url, mut requests) = server(vec![200; 3]).await;
    let policy = Policy {
        repeat: Duration::from_millis(300),
        rules: Rules { hold: Duration::ZERO, ..Rules::default() },
        webhook: Some(hook(url, 0)),
        exec: Vec::new(),
    };
    let alarms = Alarms::new(policy);
    let _running = alarms.start();
    let mut statuses = Vec::new();
    while statuses.len() < 3 {
        let late = if statuses.len() < 2 { 900 } else { 1 };
        alarms.observe(&app(vec![worker(0, 1, late)]));
        if let Ok(Some(request)) = timeout(Duration::from_millis(10), requests.recv()).await {
            statuses.push(json_of(&request)["status"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(statuses, ["raised", "repeated", "resolved"]);
}

#[tokio::test]
async fn a_notice_that_nobody_took_yet_is_delivered_by_the_next_process() {
    let (url, mut requests) = server(vec![503, 200, 200]).await;
    let old = posting(hook(url.clone(), 5), at(3600));
    let running = old.start();
    old.raise(raised(Kind::Hung, Some(2), "no heartbeat"));
    // The first try fails, the second waits for a second, and then for as long as nothing is to be told.
    assert_eq!(status_of(&mut requests).await, ("raised".into(), 1));
    old.pause(true);
    old.observe(&app(vec![]));
    let saved = reread(&old.save());
    drop(running);
    let new = posting(hook(url, 5), at(3600));
    new.restore(saved, |_| true);
    // It is not lost either when the start never comes.
    assert_eq!(new.state().under_way().count(), 1);
    let _running = new.start();
    assert_eq!(status_of(&mut requests).await, ("raised".into(), 1));
    counted(&new, |counts| &counts.delivered, 1).await;
    new.clear(Kind::Hung, &"chat".into(), Some(Slot(2)));
    assert_eq!(status_of(&mut requests).await, ("resolved".into(), 2));
}

#[tokio::test]
async fn while_it_is_paused_nothing_is_told_and_then_all_is() {
    let (url, mut requests) = server(vec![200; 2]).await;
    let alarms = posting(hook(url, 0), at(3600));
    let _running = alarms.start();
    alarms.pause(true);
    alarms.raise(raised(Kind::Hung, Some(2), "x"));
    alarms.clear(Kind::Hung, &"chat".into(), Some(Slot(2)));
    assert!(timeout(Duration::from_millis(200), requests.recv()).await.is_err());
    alarms.pause(false);
    assert_eq!(status_of(&mut requests).await.0, "raised");
    assert_eq!(status_of(&mut requests).await.0, "resolved");
}

// ---- from one process to the next
