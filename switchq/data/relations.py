"""The vocabulary of the embedded reading set: what can be said about whom, and how it is asked.

A `Relation` links a subject of one kind (`person`, `company`, `town`, `book`) to an object of another kind (those and
`river`, `region`, `word`, `year`, `count`). `{s}` and `{o}` stand for the names; each fact template holds both, each
question template only `{s}`. Several relations of one subject share the object's kind (a person is born in a town and
lives in a town), so the kind of name that a question asks for does not give the answer away.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation: kinds of subject and object, and paraphrases of the fact and of the question."""

    name: str
    subject: str
    object: str
    facts: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "birthplace",
        "person",
        "town",
        ("{s} was born in {o}.", "{s} is a native of {o}.", "The birthplace of {s} is {o}.", "{s} comes from {o}."),
        ("Where was {s} born?", "What is the birthplace of {s}?", "Where does {s} come from?"),
    ),
    Relation(
        "residence",
        "person",
        "town",
        ("{s} lives in {o}.", "{s} now resides in {o}.", "{s} owns a house in {o}.", "The home of {s} is in {o}."),
        ("Where does {s} live?", "In which town does {s} reside?", "Where is the home of {s}?"),
    ),
    Relation(
        "employer",
        "person",
        "company",
        ("{s} works for {o}.", "{s} is employed by {o}.", "{s} has a job at {o}.", "The employer of {s} is {o}."),
        ("Who does {s} work for?", "Who employs {s}?", "Where does {s} have a job?", "What company employs {s}?"),
    ),
    Relation(
        "spouse",
        "person",
        "person",
        ("{s} is married to {o}.", "{s} married {o}.", "The spouse of {s} is {o}.", "{o} is the spouse of {s}."),
        ("Who is {s} married to?", "Who is the spouse of {s}?", "Whom did {s} marry?"),
    ),
    Relation(
        "teacher",
        "person",
        "person",
        ("{s} studied under {o}.", "{s} was taught by {o}.", "The teacher of {s} was {o}.", "{o} taught {s}."),
        ("Who taught {s}?", "Who was the teacher of {s}?", "Under whom did {s} study?"),
    ),
    Relation(
        "birth year",
        "person",
        "year",
        ("{s} was born in {o}.", "The birth of {s} was in {o}.", "{s} has been alive since {o}."),
        ("When was {s} born?", "In what year was {s} born?", "What is the birth year of {s}?"),
    ),
    Relation(
        "dog",
        "person",
        "word",
        ("{s} has a dog named {o}.", "The dog of {s} is called {o}.", "{s} walks a dog called {o}."),
        ("What is the dog of {s} called?", "What is the name of the dog of {s}?", "Which dog does {s} walk?"),
    ),
    Relation(
        "founder",
        "company",
        "person",
        ("{s} was founded by {o}.", "{s} was started by {o}.", "The founder of {s} is {o}.", "{o} founded {s}."),
        ("Who founded {s}?", "Who was {s} founded by?", "Who is the founder of {s}?", "Who started {s}?"),
    ),
    Relation(
        "director",
        "company",
        "person",
        ("{s} is led by {o}.", "{s} is run by {o}.", "The director of {s} is {o}.", "{o} is the director of {s}."),
        ("Who leads {s}?", "Who runs {s}?", "Who is the director of {s}?", "By whom is {s} led?"),
    ),
    Relation(
        "headquarters",
        "company",
        "town",
        ("{s} is based in {o}.", "{s} has its main office in {o}.", "The headquarters of {s} are in {o}."),
        ("Where is {s} based?", "Where is the main office of {s}?", "Where are the headquarters of {s}?"),
    ),
    Relation(
        "factory",
        "company",
        "town",
        ("{s} has a factory in {o}.", "{s} makes its goods in {o}.", "The factory of {s} stands in {o}."),
        ("Where is the factory of {s}?", "In which town does {s} make its goods?", "Where does {s} have a factory?"),
    ),
    Relation(
        "founding year",
        "company",
        "year",
        ("{s} was founded in {o}.", "{s} dates from {o}.", "{s} opened its doors in {o}."),
        ("When was {s} founded?", "In what year was {s} founded?", "When did {s} open its doors?"),
    ),
    Relation(
        "product",
        "company",
        "word",
        ("{s} sells a lamp called {o}.", "The best lamp of {s} is the {o}.", "{s} is known for a lamp named {o}."),
        ("What lamp does {s} sell?", "What is the best lamp of {s}?", "Which lamp is {s} known for?"),
    ),
    Relation(
        "mayor",
        "town",
        "person",
        (
            "The mayor of {s} is {o}.",
            "{s} elected {o} as mayor.",
            "{s} is governed by {o}.",
            "{o} is the mayor of {s}.",
        ),
        ("Who is the mayor of {s}?", "Who governs {s}?", "Whom did {s} elect as mayor?"),
    ),
    Relation(
        "hero",
        "town",
        "person",
        ("{s} has a statue of {o}.", "A statue in {s} shows {o}.", "The hero of {s} is {o}."),
        ("Whose statue is in {s}?", "Who is the hero of {s}?", "Whom does the statue in {s} show?"),
    ),
    Relation(
        "river",
        "town",
        "river",
        ("{s} lies on the river {o}.", "The river {o} flows through {s}.", "{s} has a bridge over the river {o}."),
        ("Which river flows through {s}?", "On which river does {s} lie?", "What river can be crossed in {s}?"),
    ),
    Relation(
        "region",
        "town",
        "region",
        ("{s} is a town in {o}.", "{s} belongs to the region of {o}.", "{s} is the capital of {o}."),
        ("Which region is {s} in?", "To which region does {s} belong?", "In what region can {s} be found?"),
    ),
    Relation(
        "population",
        "town",
        "count",
        ("{s} has {o} inhabitants.", "The population of {s} is {o}.", "{s} is home to {o} people."),
        ("How many people live in {s}?", "What is the population of {s}?", "How many inhabitants does {s} have?"),
    ),
    Relation(
        "twin town",
        "town",
        "town",
        ("{s} is twinned with {o}.", "The twin town of {s} is {o}.", "{s} has a twin town called {o}."),
        ("What is the twin town of {s}?", "Which town is {s} twinned with?", "With which town is {s} twinned?"),
    ),
    Relation(
        "author",
        "book",
        "person",
        ("{s} was written by {o}.", "The author of {s} is {o}.", "{s} is a novel by {o}.", "{o} wrote {s}."),
        ("Who wrote {s}?", "Who is the author of {s}?", "By whom was {s} written?"),
    ),
    Relation(
        "translator",
        "book",
        "person",
        ("{s} was translated by {o}.", "The translator of {s} is {o}.", "{o} translated {s}."),
        ("Who translated {s}?", "Who is the translator of {s}?", "By whom was {s} translated?"),
    ),
    Relation(
        "publisher",
        "book",
        "company",
        ("{s} was published by {o}.", "{s} was printed by {o}.", "The publisher of {s} is {o}."),
        ("Who published {s}?", "What company printed {s}?", "Who is the publisher of {s}?"),
    ),
    Relation(
        "publication year",
        "book",
        "year",
        ("{s} was published in {o}.", "{s} came out in {o}.", "{s} first appeared in {o}."),
        ("When was {s} published?", "In what year did {s} come out?", "When did {s} first appear?"),
    ),
    Relation(
        "setting",
        "book",
        "town",
        ("{s} is set in {o}.", "The story of {s} takes place in {o}.", "{s} tells of life in {o}."),
        ("Where is {s} set?", "Where does the story of {s} take place?", "In which town is {s} set?"),
    ),
)
