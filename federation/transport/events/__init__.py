"""Events of other servers: fetched, cut out of long answers, their signatures checked."""
