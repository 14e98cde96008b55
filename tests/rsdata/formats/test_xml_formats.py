"""Other grammars in XML: profiles of voc, and CVAT."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reading import Read

from rsdata import recipes
from rsdata.errors import AnnotationError
from rsdata.formats import cvat, voc
from rsdata.records import Box

HRSC = recipes.load("hrsc2016").splits["unsplit"][0].options
OBJECT = """<HRSC_Image><Img_SizeWidth>1200</Img_SizeWidth><Img_SizeHeight>800</Img_SizeHeight>
<HRSC_Objects><HRSC_Object><Class_ID>100000013</Class_ID><truncated>0</truncated><difficult>1</difficult>
<box_xmin>194</box_xmin><box_ymin>243</box_ymin><box_xmax>972</box_xmax><box_ymax>507</box_ymax>
<mbox_cx>582.9349</mbox_cx><mbox_cy>353.2006</mbox_cy><mbox_w>778.1303</mbox_w><mbox_h>174.2541</mbox_h>
<mbox_ang>-0.2144308</mbox_ang><header_x>964</header_x><header_y>290</header_y></HRSC_Object></HRSC_Objects></HRSC_Image>"""


def test_hrsc_turns_clockwise_and_keeps_its_own_box(read: Read) -> None:
    """The end of the long side lies at the bow, which the file gives: with the other sign 146 px away."""
    found = read(voc, "a.xml", OBJECT, {"100000013": "ship"}, **HRSC)
    assert found.issues == []
    (record,) = found.records
    assert (record.width, record.height) == (1200, 800)
    (box,) = found.boxes
    assert box[:6] == ("ship", "100000013", 194, 243, 972, 507)
    assert box.flags == ("difficult",)
    assert box.polygon is not None
    corners = np.reshape(box.polygon, (4, 2))
    end = (corners[1] + corners[2]) / 2
    assert math.hypot(*(end - (964, 290))) < 25
    assert np.hypot(*(corners[1] - corners[0])) == pytest.approx(778.1303)
    assert np.hypot(*(corners[2] - corners[1])) == pytest.approx(174.2541)


def test_hrsc_without_ships_and_another_grammar(read: Read) -> None:
    found = read(voc, "a.xml", "<HRSC_Image><HRSC_Objects/></HRSC_Image>", {}, **HRSC)
    assert (found.issues, found.boxes) == ([], [])
    with pytest.raises(AnnotationError, match="<annotation> without any <HRSC_Object>"):
        read(voc, "a.xml", "<annotation><object/></annotation>", {}, **HRSC)


def test_fair1m(read: Read) -> None:
    options = recipes.load("fair1m").splits["train"][0].options
    text = """<annotation><size><width>50</width><height>40</height></size><objects>
<object><coordinate>pixel</coordinate><possibleresult><name>Boeing737</name></possibleresult><points>
<point>1.5,2.0</point><point>9.0,2.0</point><point>9.0,8.25</point><point>1.5,8.0</point><point>1.5,2.0</point></points></object>
<object><possibleresult><name>Van</name></possibleresult><points><point>1,2</point><point>x,2</point></points></object>
<object><possibleresult><name>Van</name></possibleresult><points><point>1,2</point><point>3,2</point></points></object>
</objects></annotation>"""
    found = read(voc, "a.xml", text, {"Boeing737": "airplane"}, **options)
    assert found.issues == [("dropped", "E06", 4), ("dropped", "E05", 5)]
    assert found.boxes == [Box("airplane", "Boeing737", 1.5, 2, 9, 8.25, [1.5, 2, 9, 2, 9, 8.25, 1.5, 8])]


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task/></meta>
<image id="0" name="a/b.jpg" width="640" height="480" subset="val">
<box label="ship" occluded="1" xtl="1.5" ytl="2.0" xbr="30.0" ybr="40.0" z_order="0"/>
<box label="ship" occluded="0" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90.0"/>
<polygon label="dock" occluded="0" points="1.0,2.0;3.0,4.5;5.0,1.0"/>
<mask label="sea" occluded="0" rle="3, 4" left="5" top="6" width="7" height="8"/>
<polyline label="road" points="1,2;3,4"/>
<box label="ship" xtl="1" ytl="2" xbr="x" ybr="4"/>
<box label="ship" xtl="1" ytl="2" xbr="3"/>
<tag label="harbour"/>
</image>
<image id="1" name="c.jpg" width="640" height="480"></image></annotations>"""


def test_cvat(read: Read) -> None:
    found = read(cvat, "annotations.xml", CVAT)
    assert [issue[1] for issue in found.issues] == ["E05", "E06", "E05"]
    assert {issue[2] for issue in found.issues} == {3}
    assert [(one.image, one.split, one.width, one.place) for one in found.records] == [
        ("a/b.jpg", "val", 640, 0),
        ("c.jpg", "train", 640, 1),
    ]
    straight, turned, dock, sea = found.boxes
    assert straight == Box("ship", "ship", 1.5, 2, 30, 40, None, ("occluded",))
    assert turned[2:6] == pytest.approx((15, 5, 25, 25))
    assert turned.polygon == pytest.approx([25, 5, 25, 25, 15, 25, 15, 5])
    assert dock == Box("dock", "dock", 1, 1, 5, 4.5, [1, 2, 3, 4.5, 5, 1])
    assert sea == Box("sea", "sea", 5, 6, 12, 14)


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        ("<annotation/>", "E01", "expected <annotations>"),
        ("<annotations><track/></annotations>", "E01", "for video is not read"),
        ("<annotations><image>", "E01", "not well-formed"),
        ("", "E09", "empty"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "E29", "refused"),
    ],
)
def test_cvat_files_that_are_refused(read: Read, text: str, code: str, why: str) -> None:
    with pytest.raises(AnnotationError, match=why) as caught:
        read(cvat, "annotations.xml", text)
    assert caught.value.code == code
