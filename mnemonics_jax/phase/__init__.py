"""One phase of class-incremental learning: model level, exemplar level, evaluation."""
