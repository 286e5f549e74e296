"""What came before what is here, or rests on another server's word for it: fetched history, and the
verdicts that are made again once the gap is closed."""
