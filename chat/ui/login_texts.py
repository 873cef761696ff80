"""What the login page says, in each language of the interface."""

LANGUAGES = {
    "en": {
        "heading": "Log in to Parley",
        "name_label": "Name",
        "password_label": "Password",
        "log_in": "Log in",
        "wrong": "The name or the password is wrong.",
        "wait": "Too many tries. Wait $seconds seconds, then try again.",
        "help": "No account, or the password forgotten? Whoever runs this server can help.",
    },
    "de": {
        "heading": "Bei Parley anmelden",
        "name_label": "Name",
        "password_label": "Passwort",
        "log_in": "Anmelden",
        "wrong": "Der Name oder das Passwort ist falsch.",
        "wait": "Zu viele Versuche. Warten Sie $seconds Sekunden, und versuchen Sie es dann noch einmal.",
        "help": "Kein Konto, oder das Passwort vergessen? Wer diesen Server betreibt, kann helfen.",
    },
}
