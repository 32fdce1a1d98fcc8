"""Pictures of a run while others look into its folder."""

from segmamba.pictures.figures import new_figure, save_figure


def test_who_lists_the_pictures_of_a_folder_never_sees_one_that_is_being_drawn(tmp_path):
    figure, seen = new_figure(), []

    class Looks:
        """Saves as a figure does, and lists the folder while it is at it."""

        def savefig(self, file, **options):
            figure.savefig(file, **options)
            seen.append(list(tmp_path.glob("*.png")))

    save_figure(Looks(), tmp_path / "training_curves.png")
    assert seen == [[]] and [path.name for path in tmp_path.iterdir()] == ["training_curves.png"]
