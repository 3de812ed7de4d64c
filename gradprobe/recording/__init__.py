"""What was seen: events, the file they are kept in, and the tables read from them. Knows nothing of torch."""
