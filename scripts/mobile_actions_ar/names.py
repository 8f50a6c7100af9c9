"""People's names from the five regions, with spellings in Latin letters for e-mail addresses."""

from __future__ import annotations

from scripts.mobile_actions_ar.grammar import items

FIRST = {
    "train": items("""
        أحمد، محمود، مصطفى، كريم، تامر، شيماء، مروة، دعاء، هبة، حسام، وائل، رانيا، نرمين، عمرو، إسلام، بسنت، ياسمين،
        فهد، سعود، تركي، نايف، بندر، مشعل، نوف، العنود، موضي، شيخة، حصة، مبارك، راشد، حمد، خليفة، سلطان، مريم، عبدالرحمن،
        جورج، إلياس، رامي، فادي، زياد، باسل، رنا، لمى، ميرنا، نانسي، جمانة، غسان، مازن، طوني، هيثم، علاء، ديما، سوسن،
        حمزة، أيوب، ياسين، زكرياء، المهدي، هشام، سكينة، خديجة، حنان، لطيفة، نعيمة، رشيد، توفيق، منير، بلال، إيمان، وردة،
        خالد، علي، حسن، حسين، عمر، فاطمة، زينب، ليلى، سلمى، نور، عبدالله، إبراهيم، سمير، جميل، ماجد، وليد، طارق، سناء،
        هند، أمل، منى، هدى، عادل، فيصل، صالح، سعيد، ناصر، جابر، بدر، عائشة، رحمة، صفاء، وفاء، أسماء، لينا، دانا، رغد"""),
    "test": items("""
        شريف، أيمن، نهى، إنجي، مدحت، جاسم، غانم، دلال، الجوهرة، عبدالعزيز، سيرين، نضال، أنطوان، كارلا، شادي، أنس، المصطفى،
        فدوى، حكيمة، لحسن، رضوان، نزار، لبنى، عماد، هالة، سهام، يونس، نجلاء، ضياء، ريما"""),
}

LAST = {
    "train": items("""
        المصري، منصور، عبدالحميد، الشناوي، البدري، شعبان، رمضان، الجندي، السيسي، زهران، غنيم، الدسوقي، فؤاد، سليمان،
        العتيبي، المطيري، القحطاني، الدوسري، الشمري، الحربي، الزهراني، الغامدي، العجمي، الكواري، المنصوري، الكعبي، النعيمي،
        البلوشي، الهاجري، الرشيدي، خوري، حداد، نجار، الخطيب، حمدان، النابلسي، الحلبي، الشامي، درويش، عيتاني، سلامة، قباني،
        مراد، جبران، شاهين، العلي، بنعلي، العلوي، الإدريسي، التازي، بناني، الفاسي، بوزيد، بلقاسم، الطرابلسي، بوعزة، الحداوي،
        مزيان، قاسمي، برادة، العمراني، الوردي، بن سالم، بن عمر، أبو زيد، أبو خليل، آل مبارك، الراوي، السامرائي، التميمي،
        الحسيني، الهاشمي، البغدادي، الجبوري، العاني، الكردي، الصباغ، اليوسف، الفارس، السعدي"""),
    "test": items("""
        البنا، الشربيني، عثمان، السبيعي، الخالدي، المري، الظاهري، كنعان، اللحام، صليبا، الزعبي، طوقان، بنجلون، الصنهاجي،
        زروق، الجزائري، بن يوسف، أبو شقرا، الأنصاري، العبيدي"""),
}

LATIN = {
    "train": """ahmed mahmoud karim tamer shaimaa marwa heba hossam wael rania amr yasmin fahad saud turki naif bandar nouf
        hessa rashed hamad sultan mariam elias rami fadi ziad basel rana lama mirna ghassan mazen haitham dima hamza ayoub
        yassine hicham soukaina khadija hanane latifa rachid mounir bilal khaled ali hassan omar fatima zainab laila salma
        samir majed walid tarek sanaa hind amal mona adel faisal saleh nasser badr aisha wafa asma lina dana info support
        sales hr contact office""".split(),
    "test": """sherif ayman noha medhat jassim ghanem dalal sirine nidal chadi anas fadwa hakima lahcen redouane nizar lobna
        imad hala siham younes najla reema booking news""".split(),
}
LATIN_LAST = {
    "train": "masri mansour shennawi badri otaibi mutairi harbi zahrani khoury haddad najjar khatib alaoui tazi fassi bouzid"
             .split(),
    "test": "banna sherbini subaie khalidi kanaan lahham benjelloun zarrouk ansari obeidi".split(),
}
DOMAINS = ("gmail.com", "hotmail.com", "yahoo.com", "outlook.com", "icloud.com", "alnoor.com", "sharika.net", "maktab.org",
           "jamia.edu", "tijara.co")
