"""The study of recurrent cells: what recurrence, gates and a second direction buy on a user's own corpus."""
