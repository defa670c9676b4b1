"""Who answers the sequences of a job."""
