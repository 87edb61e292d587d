from detmix.terminal import Parser


def test_options_are_taken_with_underscores_too_and_what_belongs_to_others_is_left_as_it_is():
    parser = Parser(allow_abbrev=False)
    part = parser.add_subparsers().add_parser("coco", allow_abbrev=False)
    part.add_argument("--iou-type")
    part.add_argument("--class-agnostic", action="store_true")
    others = ["--seed_everything", "2", "--data.iou_type=a_b"]
    settings, left = parser.parse_known_args(["coco", "--iou_type=a_b", "--class_agnostic", *others])
    assert vars(settings) == {"iou_type": "a_b", "class_agnostic": True}
    assert left == others
    assert "--iou_type" not in part.format_help()
