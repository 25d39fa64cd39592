//! What is typed for `pawctl secret` on a terminal: it arrives, is never shown, and the terminal is as it was, however that ends.

use harness::{Model, Pawd, Window};
use nix::sys::signal::Signal;

use crate::secrets::{CANARY, done, keys, provider, status, test, with_key};

const SIZE: (u16, u16) = (24, 100);

/// Types lines where they are asked for; all that was shown meanwhile.
fn typed(window: &mut Window, questions: &[(&str, &str)]) -> String {
    let mut shown = String::new();
    for (question, line) in questions {
        shown.push_str(&window.until(&format!("{question}: ")));
        assert!(
            !window.is_usual(),
            "{question}: what is typed would be shown"
        );
        window.press(format!("{line}\r").as_bytes());
    }
    shown
}

async fn pawd() -> (Model, Pawd) {
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    done(&pawd, &["secret", "init"], "").await;
    (model, pawd)
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_is_typed_arrives_and_is_not_shown() {
    let (model, pawd) = pawd().await;
    let client = pawd.client().await;
    let mut window = pawd.pawctl_in_a_window(SIZE, &["secret", "set", "cloud"]);
    let questions = [("Value", CANARY), ("The same again", CANARY)];
    let mut shown = typed(&mut window, &questions);
    shown.push_str(&window.until("set cloud"));
    assert!(window.end().success(), "{shown:?}");
    assert!(!shown.contains(&CANARY[..8]), "{shown:?}");
    assert!(window.is_usual(), "it was not put back");
    done(&pawd, &["secret", "allow", "cloud", "provider:mine"], "").await;
    provider(&client, &model, "cloud").await;
    test(&client).await.unwrap();
    assert_eq!(keys(&model).last().map(String::as_str), Some(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn passphrase_that_is_typed_opens_the_vault_and_is_not_shown() {
    const PASSPHRASE: &str = "correct horse battery";
    let model = Model::start().await;
    let pawd = with_key(&model).await;
    let client = pawd.client().await;
    let mut window = pawd.pawctl_in_a_window(SIZE, &["secret", "init", "--passphrase"]);
    let what = "Passphrase of the vault";
    let mut shown = typed(
        &mut window,
        &[(what, PASSPHRASE), ("The same again", PASSPHRASE)],
    );
    shown.push_str(&window.until("Recovery key: "));
    assert!(window.end().success(), "{shown:?}");
    done(&pawd, &["secret", "lock"], "").await;
    let mut window = pawd.pawctl_in_a_window(SIZE, &["secret", "unlock"]);
    shown.push_str(&typed(&mut window, &[(what, PASSPHRASE)]));
    shown.push_str(&window.until("unsealed"));
    assert!(window.end().success(), "{shown:?}");
    assert!(!shown.contains("horse"), "{shown:?}");
    assert!(window.is_usual(), "it was not put back");
    assert_eq!(status(&client).await.state, "unsealed");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_shows_what_is_typed_again_after_ctrl_c_a_signal_or_an_end_of_input() {
    let (_model, pawd) = pawd().await;
    let set = || pawd.pawctl_in_a_window(SIZE, &["secret", "set", "cloud"]);
    // At once, in the middle of a line, and when it is asked for once more.
    for before in [&[][..], &[("Value", CANARY)]] {
        for begun in ["", "half of a va"] {
            let mut window = set();
            typed(&mut window, before);
            window.until(": ");
            window.press(begun.as_bytes());
            window.press(&[3]);
            let shown = window.until("nothing was changed");
            assert_eq!(window.end().code(), Some(2), "{shown:?}");
            assert!(!shown.contains("half"), "{shown:?}");
            assert!(window.is_usual(), "it was not put back");
        }
    }
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let mut window = set();
        window.until("Value: ");
        window.signal(signal);
        assert!(!window.end().success());
        assert!(window.is_usual(), "{signal}: it was not put back");
    }
    let mut window = set();
    window.until("Value: ");
    window.press(&[4]);
    assert_eq!(window.end().code(), Some(2));
    assert!(window.is_usual(), "it was not put back");
    let listed = done(&pawd, &["secret", "list"], "").await;
    assert!(!listed.contains("cloud"), "{listed}");
}
