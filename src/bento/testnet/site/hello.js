document.title = "Hello from a private Tor network";
