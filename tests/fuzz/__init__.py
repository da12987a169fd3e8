"""Random input for whatever reads what strangers send: a few hundred examples always, many more when it is `long`."""
