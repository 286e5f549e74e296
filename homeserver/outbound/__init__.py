"""What this server sends to services that aren't homeservers: mail servers, identity servers, web
servers."""
