"""The revisions, named by numbers with leading zeros. One that was released is never changed again."""
