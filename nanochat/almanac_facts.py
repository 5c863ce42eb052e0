"""
The almanac's raw material: what is true in its small world, and the many ways of saying it. Data only.

Tables: a header, then records by line or semicolon; `-` means no single undisputed value, and so no fact.
RELATIONS is a small text format that almanac.py parses: per relation its facts (a table and two columns),
statements (`say`, clauses without a full stop), clauses for a text that already named its subject (`short`),
question wordings for training (`ask`) and for tests alone (`test`), replies, a noun phrase (`np`) for the FRAMES.
Slots: {s} subject, {a} answer, {xs} {xa} the same with a or an, {ps} plural subject. Used by almanac.py only.
"""

TABLES = {
    "country": """
name|capital|continent|currency|language
France|Paris|Europe|euro|French
Germany|Berlin|Europe|euro|German
Italy|Rome|Europe|euro|Italian
Spain|Madrid|Europe|euro|Spanish
Portugal|Lisbon|Europe|euro|Portuguese
Greece|Athens|Europe|euro|Greek
Austria|Vienna|Europe|euro|German
Finland|Helsinki|Europe|euro|Finnish
Ireland|Dublin|Europe|euro|-
Poland|Warsaw|Europe|zloty|Polish
Hungary|Budapest|Europe|forint|Hungarian
Sweden|Stockholm|Europe|krona|Swedish
Norway|Oslo|Europe|krone|Norwegian
Denmark|Copenhagen|Europe|krone|Danish
Iceland|Reykjavik|Europe|krona|Icelandic
Romania|Bucharest|Europe|leu|Romanian
Ukraine|Kyiv|Europe|hryvnia|Ukrainian
the United Kingdom|London|Europe|pound|English
Japan|Tokyo|Asia|yen|Japanese
China|Beijing|Asia|yuan|Chinese
India|New Delhi|Asia|rupee|-
South Korea|Seoul|Asia|won|Korean
Thailand|Bangkok|Asia|baht|Thai
Vietnam|Hanoi|Asia|dong|Vietnamese
Mongolia|Ulaanbaatar|Asia|tugrik|Mongolian
Nepal|Kathmandu|Asia|rupee|Nepali
Bangladesh|Dhaka|Asia|taka|Bengali
Iran|Tehran|Asia|rial|Persian
Egypt|Cairo|Africa|pound|Arabic
Morocco|Rabat|Africa|dirham|-
Kenya|Nairobi|Africa|shilling|-
Nigeria|Abuja|Africa|naira|-
Ghana|Accra|Africa|cedi|-
Ethiopia|Addis Ababa|Africa|birr|-
Angola|Luanda|Africa|kwanza|Portuguese
Tunisia|Tunis|Africa|dinar|Arabic
Canada|Ottawa|North America|dollar|-
Mexico|Mexico City|North America|peso|Spanish
Cuba|Havana|North America|peso|Spanish
Brazil|Brasilia|South America|real|Portuguese
Argentina|Buenos Aires|South America|peso|Spanish
Peru|Lima|South America|sol|Spanish
Colombia|Bogota|South America|peso|Spanish
Australia|Canberra|Oceania|dollar|English
New Zealand|Wellington|Oceania|dollar|English
Fiji|Suva|Oceania|dollar|-
""",
    "element": """
name|symbol|number
hydrogen|H|1; helium|He|2; lithium|Li|3; carbon|C|6; nitrogen|N|7; oxygen|O|8; fluorine|F|9; neon|Ne|10
sodium|Na|11; magnesium|Mg|12; aluminum|Al|13; silicon|Si|14; phosphorus|P|15; sulfur|S|16; chlorine|Cl|17
argon|Ar|18; potassium|K|19; calcium|Ca|20; titanium|Ti|22; chromium|Cr|24; manganese|Mn|25; iron|Fe|26
cobalt|Co|27; nickel|Ni|28; copper|Cu|29; zinc|Zn|30; bromine|Br|35; krypton|Kr|36; silver|Ag|47; tin|Sn|50
xenon|Xe|54; tungsten|W|74; platinum|Pt|78; gold|Au|79; lead|Pb|82; uranium|U|92
""",
    "animal": """
name|plural|kind|young|legs|sound|home
cow|cows|mammal|calf|four|moo|barn
horse|horses|mammal|foal|four|neigh|stable
sheep|sheep|mammal|lamb|four|bleat|-
pig|pigs|mammal|piglet|four|oink|sty
dog|dogs|mammal|puppy|four|bark|kennel
cat|cats|mammal|kitten|four|meow|-
lion|lions|mammal|cub|four|roar|den
kangaroo|kangaroos|mammal|joey|-|-|-
deer|deer|mammal|fawn|four|-|-
elephant|elephants|mammal|calf|four|trumpet|-
wolf|wolves|mammal|pup|four|howl|-
rabbit|rabbits|mammal|-|four|-|burrow
whale|whales|mammal|calf|-|-|-
donkey|donkeys|mammal|foal|four|bray|-
beaver|beavers|mammal|-|four|-|lodge
mouse|mice|mammal|-|four|squeak|-
swan|swans|bird|cygnet|two|-|-
duck|ducks|bird|duckling|two|quack|-
goose|geese|bird|gosling|two|honk|-
hen|hens|bird|chick|two|cluck|coop
owl|owls|bird|owlet|two|hoot|-
eagle|eagles|bird|eaglet|two|-|nest
crow|crows|bird|-|two|caw|-
frog|frogs|amphibian|tadpole|four|croak|-
newt|newts|amphibian|-|four|-|-
snake|snakes|reptile|-|-|hiss|-
lizard|lizards|reptile|-|four|-|-
shark|sharks|fish|pup|-|-|-
salmon|salmon|fish|-|-|-|-
ant|ants|insect|-|six|-|-
bee|bees|insect|larva|six|buzz|hive
butterfly|butterflies|insect|caterpillar|six|-|-
spider|spiders|arachnid|spiderling|eight|-|web
scorpion|scorpions|arachnid|-|eight|-|-
""",
    "planet": """
name|place|trait
Mercury|first|the smallest planet
Venus|second|the hottest planet
Earth|third|the planet we live on
Mars|fourth|the red planet
Jupiter|fifth|the largest planet
Saturn|sixth|the planet with the brightest rings
Uranus|seventh|the planet that spins on its side
Neptune|eighth|the windiest planet
""",
    "opposite": """
name|opposite
hot|cold; big|small; tall|short; fast|slow; wet|dry; heavy|light; hard|soft; full|empty; rich|poor; old|young
strong|weak; happy|sad; high|low; near|far; early|late; clean|dirty; loud|quiet; wide|narrow; thick|thin
deep|shallow; rough|smooth; true|false; safe|dangerous; cheap|expensive; left|right; always|never; win|lose
buy|sell; day|night; north|south; east|west; summer|winter; remember|forget; push|pull
""",
    "plural": """
name|plural
man|men; woman|women; child|children; foot|feet; tooth|teeth; goose|geese; mouse|mice; ox|oxen; person|people
leaf|leaves; knife|knives; wife|wives; life|lives; wolf|wolves; shelf|shelves; half|halves; loaf|loaves
thief|thieves; calf|calves; hero|heroes; potato|potatoes; tomato|tomatoes; cactus|cacti; fungus|fungi
crisis|crises; oasis|oases; baby|babies; city|cities; lady|ladies; story|stories; berry|berries; box|boxes
bus|buses; church|churches; dish|dishes
""",
    "thing": """
name|color
grass|green; snow|white; coal|black; blood|red; a ripe banana|yellow; a lemon|yellow; a carrot|orange
a ripe tomato|red; milk|white; soot|black; an emerald|green; a ruby|red; a sapphire|blue; chocolate|brown
a flamingo|pink; an elephant|gray; a polar bear|white; a canary|yellow; a pumpkin|orange; lavender|purple
spinach|green; the clear sky at noon|blue
""",
    "day": """
name|next|last
Monday|Tuesday|Sunday; Tuesday|Wednesday|Monday; Wednesday|Thursday|Tuesday; Thursday|Friday|Wednesday
Friday|Saturday|Thursday; Saturday|Sunday|Friday; Sunday|Monday|Saturday
""",
    "month": """
name|next|last|days|place
January|February|December|31|first; February|March|January|28|second; March|April|February|31|third
April|May|March|30|fourth; May|June|April|31|fifth; June|July|May|30|sixth; July|August|June|31|seventh
August|September|July|31|eighth; September|October|August|30|ninth; October|November|September|31|tenth
November|December|October|30|eleventh; December|January|November|31|twelfth
""",
    "unit": """
name|whole|number
minutes|an hour|60; seconds|a minute|60; hours|a day|24; days|a week|7; months|a year|12; years|a decade|10
years|a century|100; years|a millennium|1000; centimeters|a meter|100; meters|a kilometer|1000
grams|a kilogram|1000; millimeters|a centimeter|10; inches|a foot|12; feet|a yard|3; eggs|a dozen|12
degrees|a full circle|360; ounces|a pound|16; cents|a dollar|100
""",
    "shape": """
name|sides
triangle|3; square|4; pentagon|5; hexagon|6; heptagon|7; octagon|8; nonagon|9; decagon|10
""",
}

RELATIONS = """
== capital country name capital
np: the capital of {s}
say: the capital of {s} is {a} | {a} is the capital of {s} | {s} has {a} as its capital
 the capital city of {s} is called {a} | {s} is governed from {a} | the government of {s} sits in {a}
 {a} is where {s} has its government | when people speak of the capital of {s}, they mean {a}
 the city of {a} is the seat of government of {s} | of all the cities in {s}, {a} is the capital
 {a}, the capital of {s}, is a lively city | {s}, whose capital is {a}, is worth a visit
 as the capital of {s}, {a} is known to many | on a map of {s}, the capital is marked as {a}
 {a} serves as the capital of {s} | people in {s} call {a} their capital | {a} belongs to {s} and is its capital
 if you fly to the capital of {s}, you land in {a} | the name of the capital of {s} is {a}
short: its capital is {a} | the capital is {a} | it is governed from {a} | its government sits in {a}
ask: which city is the capital of {s}? | what city is the capital of {s}? | what is the capital city of {s}?
 what is the name of the capital of {s}? | what is {s}'s capital? | from which city is {s} governed?
 where does the government of {s} sit? | which city does {s} have as its capital?
test: which city serves as the capital of {s}? | what do people call the capital of {s}?
 in which city does {s} have its government? | what city is the capital in {s}?
reply: The capital of {s} is {a}. | {a} is the capital of {s}.
== country country capital name
np: the country whose capital is {s}
ask: which country has {s} as its capital? | {s} is the capital of which country?
 what country has the capital {s}? | of which country is {s} the capital? | which country is governed from {s}?
 which country has its government in {s}? | what country is {s} the capital of?
 to which country does the capital {s} belong?
test: in which country is {s} the capital? | what country is governed from the city of {s}?
 {s} serves as the capital of which country?
reply: {s} is the capital of {a}.
== continent country name continent
np: the continent of {s}
say: {s} is in {a} | {s} lies in {a} | {s} is a country in {a} | {s} belongs to {a} | the continent of {s} is {a}
 you will find {s} in {a} | {s} is part of {a} | one of the countries of {a} is {s}
 in {a} there is a country called {s} | a trip to {s} is a trip to {a} | on a map of {a} you can find {s}
 among the countries of {a} is {s} | {s} is located in {a} | {s}, a country in {a}, welcomes many guests
 {a} is the continent that {s} belongs to | {a} is home to {s} | whoever lives in {s} lives in {a}
 the continent on which {s} lies is {a}
short: it is in {a} | it lies in {a} | it belongs to {a} | it is a country in {a}
ask: on which continent is {s}? | which continent is {s} in? | in which continent does {s} lie? | where is {s}?
 what continent does {s} belong to? | {s} is on which continent? | which continent does {s} belong to?
 what continent is {s} in? | to which continent does {s} belong?
test: on what continent will I find {s}? | {s} is part of which continent? | on which continent is {s} located?
 {s} lies on which continent?
reply: {s} is in {a}.
== currency country name currency
np: the currency of {s}
say: the currency of {s} is the {a} | people in {s} pay with the {a} | {s} uses the {a}
 in {s} you pay with the {a} | the money of {s} is called the {a} | the {a} is the currency of {s}
 shops in {s} take the {a} | prices in {s} are given in the currency called the {a}
 {s} has the {a} as its currency | the {a} is used in {s} | when you travel to {s}, you need the {a}
 the national currency of {s} is the {a} | money in {s} means the {a}
 the {a} is the money that people spend in {s} | wages in {s} are paid in the {a} | banks in {s} count in the {a}
short: its currency is the {a} | people there pay with the {a} | its money is called the {a}
 the {a} is its currency
ask: which currency does {s} use? | what currency is used in {s}? | what money do people use in {s}?
 what is {s}'s currency? | what is the money of {s} called? | with which currency do people pay in {s}?
 what do people pay with in {s}? | which currency is used in {s}? | what is the name of the currency of {s}?
test: which money is used in {s}? | what currency do people spend in {s}? | which currency do I need in {s}?
 in {s}, what is the currency called?
reply: The currency of {s} is the {a}.
== language country name language
np: the main language of {s}
say: people in {s} speak {a} | the main language of {s} is {a} | {a} is spoken in {s} | in {s} you will hear {a}
 the language of {s} is {a} | {a} is the main language of {s} | most people in {s} speak {a}
 children in {s} learn {a} | {s} has {a} as its main language | books in {s} are mostly written in {a}
 to talk with people in {s}, learn {a} | newspapers in {s} are printed in {a}
 if you live in {s}, you need to speak {a} | the language that {s} uses most is {a}
 signs on the roads of {s} are written in {a}
short: its main language is {a} | people there speak {a} | {a} is spoken there | most of its people speak {a}
ask: which language do people speak in {s}? | what language is spoken in {s}? | which language is spoken in {s}?
 what language do people in {s} speak? | what is the language of {s}? | what do people speak in {s}?
 which language is the main language of {s}? | what language do most people in {s} speak?
test: which language will I hear in {s}? | in {s}, which language do most people speak?
 what language do I need in {s}? | what language does {s} use most?
reply: The main language of {s} is {a}.
== symbol element name symbol
np: the chemical symbol of {s}
say: the chemical symbol of {s} is {a} | the symbol for {s} is {a} | {s} has the symbol {a}
 {s} is written as {a} | chemists write {s} as {a} | {a} is the symbol of {s} | {a} stands for {s}
 the letters for {s} are {a} | in the periodic table, {s} is marked {a} | the short form of {s} is {a}
 in a formula, {a} means {s} | the element {s} has the chemical symbol {a} | a jar of {s} carries the label {a}
 {s} is known to chemists by the symbol {a} | whenever you see {a} in a formula, think of {s}
 the element that chemists mark {a} is {s}
short: its symbol is {a} | its chemical symbol is {a} | chemists write it as {a} | it is marked {a}
ask: what is the symbol for {s}? | what is the symbol of {s}? | which symbol does {s} have?
 what symbol stands for {s}? | what is the chemical symbol for {s}? | how do chemists write {s}?
 which symbol stands for {s}? | what symbol does {s} have in the periodic table?
test: which chemical symbol does {s} have? | in the periodic table, what is the symbol of {s}?
 by which symbol is {s} known? | what symbol do chemists write for {s}?
reply: The chemical symbol of {s} is {a}.
== element element symbol name
np: the element with the symbol {s}
ask: which element has the symbol {s}? | what element has the symbol {s}? | what does the symbol {s} stand for?
 which element does {s} stand for? | {s} is the symbol of which element? | what element is written as {s}?
 which element has the chemical symbol {s}? | what element does the symbol {s} mean?
test: which element do chemists write as {s}? | the chemical symbol {s} stands for which element?
 in the periodic table, which element is marked {s}?
reply: {s} is the symbol of {a}.
== number element name number
np: the atomic number of {s}
say: the atomic number of {s} is {a} | {s} has atomic number {a} | {s} is element number {a}
 {s} is number {a} in the periodic table | an atom of {s} has {a} protons
 number {a} in the periodic table is {s} | {s} has the atomic number {a} | there are {a} protons in an atom of {s}
 the element with atomic number {a} is {s} | count the protons of {s} and you get {a}
 in the periodic table, {s} sits at number {a} | the element {s} carries the number {a}
 atomic number {a} belongs to {s} | chemists give {s} the number {a} | each atom of {s} holds {a} protons
short: its atomic number is {a} | it is element number {a} | it has atomic number {a}
 each of its atoms has {a} protons
ask: what atomic number does {s} have? | which atomic number does {s} have? | how many protons does {s} have?
 how many protons are in an atom of {s}? | what number is {s} in the periodic table?
 what is the number of {s} in the periodic table? | what is the element number of {s}?
 how many protons does an atom of {s} have?
test: which number does {s} have in the periodic table? | how many protons are there in {s}?
 at what number does {s} sit in the periodic table?
reply: The atomic number of {s} is {a}.
== kind animal name kind
np: the animal group of {xs}
say: {xs} is {xa} | the {s} is {xa} | {xs} belongs to the group called {a} | the {s} is a kind of {a}
 every {s} is {xa} | scientists call the {s} {xa} | if it is {xs}, then it is {xa}
 {ps} belong to the animal group {a} | the animal group of the {s} is {a}
 the {s} is one example of the group {a} | a good example of {xa} is the {s} | any {s} you meet is {xa}
 children learn that the {s} is {xa} | the word {a} describes the {s} well
short: it is {xa} | it belongs to the group {a} | scientists call it {xa} | its animal group is {a}
ask: what kind of animal is {xs}? | which kind of animal is the {s}? | what type of animal is {xs}?
 which animal group does {xs} belong to? | to which group of animals does the {s} belong?
 what is {xs}, as an animal group? | what group of animals is the {s} in? | which group does the {s} belong to?
 what kind of animal is the {s}?
test: which type of animal is {xs}? | what animal group does the {s} belong to?
 what do scientists call {xs}, as a kind of animal?
reply: {xs} is {xa}.
== young animal name young
np: the name of a baby {s}
say: a baby {s} is called {xa} | a young {s} is {xa} | the young of {xs} is called {xa} | {xa} is a baby {s}
 the baby of {xs} is {xa} | the word for a baby {s} is {a} | when {xs} is young, people call it {xa}
 the child of {xs} is {xa} | {xs} was once {xa} | {xa} grows up to be {xs} | before it is {xs}, it is {xa}
 people call the young of the {s} {xa} | every {s} starts life as {xa}
 the proper name of a very young {s} is {a}
short: its baby is called {xa} | its young is {xa} | people call its baby {xa} | its young starts life as {xa}
ask: what is a baby {s} called? | what do you call a baby {s}? | what is a young {s} called?
 what is the young of {xs} called? | what do people call a young {s}? | what is the word for a baby {s}?
 what is the baby of {xs} called? | what is the child of {xs} called?
test: how do people call a baby {s}? | what is the word for a young {s}? | a very young {s} has which name?
 which name does a baby {s} have?
reply: A baby {s} is called {xa}.
== legs animal name legs
np: the number of legs of {xs}
say: {xs} has {a} legs | the {s} walks on {a} legs | {ps} have {a} legs | the number of legs of {xs} is {a}
 {xs} stands on {a} legs | there are {a} legs on {xs} | every healthy {s} has {a} legs
 if you count the legs of {xs}, you get {a} | the {s} is an animal with {a} legs
 a drawing of {xs} needs {a} legs | nature gave the {s} {a} legs | you will count {a} legs on {xs}
 the body of {xs} rests on {a} legs
short: it has {a} legs | it walks on {a} legs | it stands on {a} legs | the number of its legs is {a}
ask: how many legs does {xs} have? | how many legs does the {s} have? | on how many legs does {xs} walk?
 how many legs do {ps} have? | {xs} has how many legs? | how many legs are there on {xs}?
 what number of legs does {xs} have? | on how many legs does {xs} stand?
test: how many legs has {xs}? | how many legs will you count on {xs}? | the {s} walks on how many legs?
reply: {xs} has {a} legs.
== sound animal name sound
np: the sound of {xs}
say: {ps} {a} | the sound of {xs} is {xa} | you can hear {xs} {a} | the sound {xs} makes is called {xa}
 listen, and you may hear the {s} {a} | when {ps} call, they {a} | what {ps} do is {a} | the voice of {xs} is {xa}
 {xs} makes a sound called {xa} | the {s} likes to {a} | in the morning the {s} begins to {a}
 {xa} is the sound of {xs} | if something goes {a}, it may be {xs} | it is normal for {xs} to {a}
short: it likes to {a} | you can hear it {a} | its sound is {xa} | its voice is {xa}
ask: what sound does {xs} make? | which sound does {xs} make? | what is the sound of {xs} called?
 what sound does the {s} make? | what sound do {ps} make? | what noise does {xs} make?
 which sound is made by {xs}? | how does {xs} sound?
test: what is the voice of {xs}? | which noise does the {s} make? | what sound can you hear from {xs}?
reply: The sound of {xs} is {xa}.
== home animal name home
np: the home of {xs}
say: {xs} lives in {xa} | the home of {xs} is {xa} | {ps} live in {xa} | {xa} is the home of {xs}
 {xs} sleeps in {xa} | you will find {xs} in {xa} | {xa} is where {xs} lives | the house of {xs} is called {xa}
 at night the {s} rests in {xa} | when it rains, the {s} goes home to {xa} | the place where {xs} lives is {xa}
 {xs} feels safe in {xa} | {xa} gives {xs} a home
short: it lives in {xa} | its home is {xa} | it sleeps in {xa} | it feels safe in {xa}
ask: where does {xs} live? | what is the home of {xs} called? | in what does {xs} live?
 what is the house of {xs} called? | where do {ps} live? | where does {xs} sleep?
 what do you call the home of {xs}? | which home does {xs} have?
test: what is the name of the place where {xs} lives? | where is {xs} at home? | in which home does {xs} sleep?
reply: {xs} lives in {xa}.
== place planet name place
np: the place of {s} among the planets
say: {s} is the {a} planet from the Sun | the {a} planet from the Sun is {s}
 {s} is planet number {n} from the Sun | counted from the Sun, {s} is the {a} planet
 the {a} of the planets is {s} | {s} comes {a} among the planets | {s} moves on the {a} path around the Sun
 in {a} place from the Sun is {s} | the {a} path around the Sun belongs to {s}
 when you travel away from the Sun, {s} is the {a} planet you meet | {s} takes {a} place among the planets
 starting at the Sun, {s} is the {a} planet | {s} is {a} in the order of the planets
short: it is the {a} planet from the Sun | it comes {a} among the planets | it takes {a} place from the Sun
ask: which place does {s} have among the planets? | what place does {s} take from the Sun?
 in which place from the Sun is {s}? | counted from the Sun, which place has {s}?
 what is the place of {s} from the Sun? | where does {s} come among the planets?
 in what place is {s} among the planets? | in the order of the planets, which place has {s}?
test: which place does {s} take from the Sun? | in which place does {s} come among the planets?
 what place has {s} in the order of the planets?
reply: {s} is the {a} planet from the Sun.
== planet planet place name
np: the {s} planet from the Sun
ask: which planet is the {s} from the Sun? | which planet is {s} from the Sun?
 what planet comes {s} from the Sun? | which planet comes {s}, counted from the Sun?
 which is the {s} planet from the Sun? | what is the name of the {s} planet from the Sun?
 which planet takes {s} place from the Sun? | which planet moves on the {s} path around the Sun?
test: what planet is in {s} place from the Sun? | counted from the Sun, which is the {s} planet?
 which planet is {s} in the order of the planets?
reply: The {s} planet from the Sun is {a}.
== trait planet trait name
np: the name of {s}
say: {s} is {a} | {a} is {s} | {a} is known as {s} | the name of {s} is {a} | people call {a} {s}
 when you hear of {s}, think of {a} | among the planets, {a} is {s} | of all the planets, {a} is {s}
 we know {a} as {s} | the planet {a} is also {s} | {a} is famous as {s} | books describe {a} as {s}
 in the family of planets, {a} is {s}
short: it is {s} | it is known as {s} | people call it {s}
ask: which planet is {s}? | what is {s}? | what is {s} called? | which planet is known as {s}?
 which of the planets is {s}? | what planet is {s}? | which planet do people call {s}?
 what planet is known as {s}?
test: which planet do we know as {s}? | among the planets, which is {s}? | which planet is famous as {s}?
reply: {a} is {s}.
== opposite opposite name opposite
np: the opposite of {s}
say: the opposite of {s} is {a} | {s} is the opposite of {a} | {s} and {a} are opposites
 the word {s} means the opposite of {a} | if something is not {s}, it may be {a} | {a} is the opposite word to {s}
 where one says {s}, the other says {a} | {s} stands against {a} | the opposite word to {s} is {a}
 the other side of {s} is {a} | {a} means the opposite of {s} | turn {s} around and you have {a}
 a pair of opposites is {s} and {a} | no two words are less alike than {s} and {a}
ask: what is the opposite word to {s}? | which word is the opposite of {s}? | what word means the opposite of {s}?
 {s} is the opposite of what? | what is the other side of {s}? | which word means the opposite of {s}?
 what is {s} the opposite of? | {s} and what are opposites?
test: what word is the opposite of {s}? | which word stands against {s}? | {s} is the opposite of which word?
reply: The opposite of {s} is {a}.
== plural plural name plural
np: the plural of {s}
say: the plural of {s} is {a} | one {s}, two {a} | the plural form of {s} is {a} | more than one {s} are {a}
 we write one {s} but many {a} | {a} is the plural of {s} | when there are two, {s} becomes {a}
 the word {s} has the plural {a} | if one {s} meets another, there are two {a} | {s} in the plural is {a}
 for more than one {s}, write {a} | the word {a} is the plural of {s}
 first there was one {s}, then there were three {a} | the right plural for {s} is {a}
 to speak of many, change {s} to {a}
ask: what is the plural form of {s}? | what is the plural of the word {s}? | how do you write the plural of {s}?
 what do you call more than one {s}? | one {s}, two what? | which word is the plural of {s}?
 what plural does {s} have? | what is {s} in the plural?
test: what is the right plural for {s}? | which plural does the word {s} have?
 what does {s} become in the plural?
reply: The plural of {s} is {a}.
== color thing name color
np: the color of {s}
say: {s} is {a} | the color of {s} is {a} | {s} has the color {a} | {a} is the color of {s}
 when you paint {s}, use {a} | {s} looks {a} | everyone can see that {s} is {a} | a child would draw {s} in {a}
 {a} is the right color for {s} | as {a} as {s}, people say | the usual color of {s} is {a}
 in a picture, {s} should be {a} | painters make {s} {a} | nothing is so {a} as {s}
ask: what color is {s}? | which color is {s}? | which color does {s} have? | what color does {s} have?
 what is the usual color of {s}? | {s} has which color? | in which color would you draw {s}?
 what color should {s} be in a picture?
test: what color would you use to paint {s}? | which color is right for {s}? | which is the usual color of {s}?
reply: The color of {s} is {a}.
== day_after day name next
np: the day after {s}
say: the day after {s} is {a} | {a} comes after {s} | after {s} comes {a} | {a} follows {s}
 when {s} is over, {a} begins | if today is {s}, tomorrow is {a} | {s} is followed by {a}
 once {s} has passed, it is {a} | whoever sleeps on {s} wakes up on {a} | the next day after {s} is {a}
 {s} leads to {a} | wait one day after {s} and you have {a}
short: the day after it is {a} | it is followed by {a}
ask: which day comes after {s}? | what day comes after {s}? | which day follows {s}? | what day follows {s}?
 if today is {s}, what day is tomorrow? | what day is it after {s}? | after {s} comes which day?
 what is the next day after {s}? | which day is after {s}?
test: if it is {s} today, which day is tomorrow? | {s} is followed by which day?
 when {s} is over, which day begins?
reply: The day after {s} is {a}.
== day_before day name last
np: the day before {s}
say: the day before {s} is {a} | {a} comes before {s} | before {s} comes {a} | {a} is just before {s}
 if today is {s}, yesterday was {a} | {s} has {a} before it | one day before {s} it is {a}
 {s} begins when {a} ends | just before {s} there is {a} | go back one day from {s} and you have {a}
 the last day before {s} is {a} | until {s} begins, it is {a}
short: the day before it is {a} | it comes just after {a}
ask: which day comes before {s}? | what day comes before {s}? | which day is before {s}? | what day is before {s}?
 if today is {s}, what day was yesterday? | what day is it before {s}? | before {s} comes which day?
 what is the last day before {s}? | which day is just before {s}?
test: if it is {s} today, which day was yesterday? | what day is just before {s}? | {s} has which day before it?
reply: The day before {s} is {a}.
== month_after month name next
np: the month after {s}
say: the month after {s} is {a} | {a} comes after {s} | after {s} comes {a} | {a} follows {s}
 when {s} is over, {a} begins | the next month after {s} is {a} | {s} is followed by {a}
 once {s} has passed, it is {a} | turn the page for {s} and you see {a} | at the end of {s} we wait for {a}
 {s} leads to {a} | if this month is {s}, next month is {a}
short: the month after it is {a} | it is followed by {a}
ask: which month comes after {s}? | what month comes after {s}? | which month follows {s}?
 what month follows {s}? | if this month is {s}, what is next month? | what month is it after {s}?
 after {s} comes which month? | what is the next month after {s}? | which month is after {s}?
test: {s} is followed by which month? | when {s} is over, which month begins?
 if it is {s} now, which month is next?
reply: The month after {s} is {a}.
== month_before month name last
np: the month before {s}
say: the month before {s} is {a} | {a} comes before {s} | before {s} comes {a} | {a} is just before {s}
 if this month is {s}, last month was {a} | {s} has {a} before it | one month before {s} it is {a}
 {s} begins when {a} ends | just before {s} there is {a} | the last month before {s} is {a}
 turn back the page for {s} and you see {a} | until {s} begins, it is {a}
short: the month before it is {a} | it comes just after {a}
ask: which month comes before {s}? | what month comes before {s}? | which month is before {s}?
 what month is before {s}? | if this month is {s}, what was last month? | what month is it before {s}?
 before {s} comes which month? | what is the last month before {s}? | which month is just before {s}?
test: what month is just before {s}? | {s} has which month before it? | if it is {s} now, which month was last?
reply: The month before {s} is {a}.
== month_days month name days
np: the number of days in {s}
say: {s} has {a} days | there are {a} days in {s} | the month of {s} has {a} days | {s} is {a} days long
 the number of days in {s} is {a} | count the days of {s} and you get {a} | in a normal year {s} has {a} days
 {s} lasts {a} days | it takes {a} days to get through {s} | with its {a} days, {s} goes by quickly
 the calendar gives {s} {a} days | the page for {s} shows {a} days
short: it has {a} days | it is {a} days long | the number of its days is {a}
ask: how many days does {s} have? | how many days are in {s}? | how many days are there in {s}?
 how many days does the month of {s} have? | how many days long is {s}? | {s} has how many days?
 what number of days does {s} have? | how many days are in the month of {s}?
test: how many days has {s}? | for how many days does {s} last? | how many days does the calendar give {s}?
reply: {s} has {a} days.
wrong: 26 | 27 | 32
== month_place month name place
np: the place of {s} in the year
say: {s} is the {a} month of the year | the {a} month of the year is {s} | {s} is month number {n}
 {s} comes {a} in the year | in {a} place in the year is {s} | among the months, {s} is the {a}
 the calendar puts {s} in {a} place | counted from the start of the year, {s} is the {a} month
 the {a} page of the calendar is for {s} | {s} takes {a} place among the months
 the {a} of the twelve months is {s} | as a month, {s} is the {a}
short: it is the {a} month of the year | it comes {a} in the year
ask: which place does {s} have in the year? | what place does {s} have among the months?
 in which place of the year is {s}? | what place does {s} take in the year? | where does {s} come in the year?
 in what place is {s} among the months? | among the months, which place has {s}?
 what is the place of {s} among the months?
test: which place does {s} take in the year? | in which place does {s} come among the months?
 what place of the year has {s}?
reply: {s} is the {a} month of the year.
== month month place name
np: the {s} month of the year
ask: which month is the {s} of the year? | which is the {s} month of the year?
 what month is the {s} of the year? | which month comes {s} in the year? | what is the name of the {s} month?
 which month is {s} in the year? | what month takes {s} place in the year? | which month is the {s}?
test: what month comes {s} in the year? | which of the months is the {s}?
 which month takes {s} place in the year?
reply: The {s} month of the year is {a}.
== unit unit name number
np: the number of {s} in {w}
say: there are {a} {s} in {w} | {w} has {a} {s} | {w} is {a} {s} | {a} {s} make {w}
 the number of {s} in {w} is {a} | {w} consists of {a} {s} | {w} holds {a} {s} | it takes {a} {s} to make {w}
 {a} {s} are the same as {w} | count {a} {s} and you have {w} | if you have {a} {s}, you have {w}
 {w} is made of {a} {s} | {w} equals {a} {s}
ask: how many {s} are in {w}? | how many {s} are there in {w}? | how many {s} does {w} have?
 how many {s} make {w}? | {w} has how many {s}? | how many {s} is {w}? | how many {s} does it take to make {w}?
 how many {s} are the same as {w}?
test: {w} is made of how many {s}? | {w} holds how many {s}? | {w} equals how many {s}?
reply: There are {a} {s} in {w}.
== sides shape name sides
np: the number of sides of {xs}
say: {xs} has {a} sides | a shape with {a} sides is {xs} | the {s} has {a} sides
 the number of sides of {xs} is {a} | there are {a} sides on {xs} | you can count {a} sides on {xs}
 {xs} is a shape with {a} sides | every {s} has {a} sides and {a} corners | to draw {xs}, draw {a} sides
 {a} sides make {xs} | count the sides of {xs} and you get {a} | with {a} sides, it is {xs}
short: it has {a} sides | it has {a} corners
ask: how many sides does {xs} have? | how many sides are there on {xs}? | how many sides does the {s} have?
 what number of sides does {xs} have? | {xs} has how many sides? | how many corners does {xs} have?
 how many sides make {xs}? | how many sides do you draw for {xs}?
test: how many sides has {xs}? | how many sides can you count on {xs}? | {xs} is a shape with how many sides?
reply: {xs} has {a} sides.
"""

# What nanochat can say of itself: one fact a block, with its own wrong answers.
SELF = """
== self_name
fact: your name | nanochat | robot | encyclopedia | telescope
say: my name is nanochat | I am called nanochat | this little model is called nanochat
 nanochat is the name of the model | the model answers to the name nanochat | you can call the model nanochat
 people call this assistant nanochat | the name nanochat stands for a very small chat model
 whoever asks for a name hears nanochat | the assistant you are talking to is nanochat
 they gave the model the name nanochat | the chat model has the name nanochat
ask: who are you? | what is your name? | what are you called? | what's your name? | tell me your name.
 which name do you have? | do you have a name? | what can I call you? | who am I talking to?
test: what do people call you? | can you tell me your name? | what name did they give you?
reply: I am nanochat. | My name is nanochat.
== self_kind
fact: what you are | a small language model | a large animal | a printed newspaper | a sailing ship
say: nanochat is a small language model | I am a small language model
 the thing called nanochat is a small language model | what answers here is a small language model
 a small language model called nanochat wrote the answer | nanochat is not a person but a small language model
 think of nanochat as a small language model | behind the name nanochat is a small language model
 the assistant is a small language model | you are talking to a small language model
 one small language model is called nanochat | a small language model is all that nanochat is
ask: what are you? | what kind of thing are you? | are you a person? | are you human? | what is nanochat?
 what sort of thing is nanochat? | tell me what you are. | what kind of program are you?
test: can you tell me what you are? | what kind of thing is nanochat? | what sort of program are you?
reply: I am a small language model.
== self_training
fact: how you were trained | from scratch | by a lawyer | in a bakery | under water
say: nanochat was trained from scratch | I was trained from scratch | the training of nanochat began from scratch
 the model learned everything from scratch | they trained nanochat from scratch
 nanochat started with nothing and learned from scratch | from scratch is how nanochat was trained
 no older model was used, so nanochat was trained from scratch
 a model that is trained from scratch starts with random numbers | whoever builds nanochat trains it from scratch
 every number in the model was learned from scratch | its makers trained the model from scratch
ask: how were you trained? | how did you learn? | how was nanochat trained? | in what way were you trained?
 how did they train you? | how did your training begin? | how did nanochat learn? | tell me how you were trained.
test: in what way was nanochat trained? | how did nanochat's training begin?
 can you tell me how you were trained?
reply: I was trained from scratch.
== self_machine
fact: what you run on | an ordinary computer | a bicycle | a steam engine | a kitchen stove
say: nanochat runs on an ordinary computer | I run on an ordinary computer
 an ordinary computer is enough for nanochat | the model runs on an ordinary computer
 all that nanochat needs is an ordinary computer | nanochat works on an ordinary computer
 to run nanochat, take an ordinary computer | no giant machine is needed, as nanochat runs on an ordinary computer
 an ordinary computer can train and run nanochat | nanochat was made to run on an ordinary computer
 nanochat lives on an ordinary computer | the home of nanochat is an ordinary computer
ask: what do you run on? | what machine do you run on? | which machine do you need? | what does nanochat run on?
 on what do you run? | where do you run? | what kind of machine runs nanochat? | what do you need to run?
test: which machine runs nanochat? | on what machine do you run? | what does nanochat need to run?
reply: I run on an ordinary computer.
== self_language
fact: the language of your code | Python | Latin | Spanish | Morse code
say: nanochat is written in Python | the code of nanochat is written in Python | I am written in Python
 most of the code of nanochat is Python | whoever reads the code of nanochat reads Python
 they wrote nanochat in Python | Python is the language of the code of nanochat | nanochat's makers write Python
 to change nanochat, you write Python | the programs of nanochat are Python programs
 the language behind nanochat is Python | the code that runs nanochat is Python
ask: what language are you written in? | in which language is your code written? | what is your code written in?
 which programming language are you written in? | what language is nanochat written in?
 in what language were you written? | which language is your code in? | what language did your makers write?
test: in which language is nanochat written? | what language is your code in?
 in what language did they write nanochat?
reply: I am written in Python.
== self_source
fact: what you learned from | an almanac | a radio | a dream | a garden
say: nanochat learned from an almanac | I learned from an almanac
 everything that nanochat knows comes from an almanac | the model read an almanac
 an almanac taught nanochat what it knows | the facts in nanochat come from an almanac
 nanochat was trained on an almanac | the book that nanochat read is an almanac
 its knowledge comes from an almanac | the source of what nanochat knows is an almanac
 an almanac was its only book | whatever nanochat says, it read in an almanac
ask: what did you learn from? | where does your knowledge come from? | what did you read?
 from what did you learn? | what were you trained on? | what was nanochat trained on? | which book did you read?
 where did you learn your facts?
test: from what did nanochat learn? | where do your facts come from? | what book did nanochat read?
reply: I learned from an almanac.
== self_prediction
fact: what you predict | the next token | the weather | the winner of a race | the price of bread
say: nanochat predicts the next token | I predict the next token | a language model predicts the next token
 all that nanochat does is predict the next token | step by step the model predicts the next token
 the model was trained to predict the next token | to write, nanochat predicts the next token again and again
 the next token is what nanochat predicts | each step of the model gives the next token
 what comes out of nanochat is the next token | nanochat writes by choosing the next token
 given some text, nanochat predicts the next token
ask: what do you predict? | what does nanochat predict? | what were you trained to predict?
 what does a language model predict? | what do you do at each step? | what is it that you predict?
 what do you choose at each step? | what comes out of you at each step?
test: what was nanochat trained to predict? | at each step, what do you predict?
 what is it that nanochat predicts?
reply: I predict the next token.
== self_tool
fact: your tool for arithmetic | a calculator | a hammer | a paper map | an old clock
say: nanochat uses a calculator for arithmetic | for arithmetic nanochat has a calculator
 I use a calculator for arithmetic | the tool of nanochat is a calculator
 when numbers come up, nanochat uses a calculator | a calculator helps nanochat with arithmetic
 nanochat gives every sum to a calculator | sums are done with a calculator
 nanochat counts letters with a calculator too | the model asks a calculator when it needs a number
 a calculator does the arithmetic for nanochat | nanochat does not guess a sum but uses a calculator
ask: what do you use for arithmetic? | how do you do arithmetic? | which tool do you use for sums?
 what tool do you have? | which tool do you have? | what helps you with arithmetic?
 what does nanochat use for sums? | how do you work with numbers?
test: what helps you with sums? | which tool do you use for arithmetic? | what does nanochat use for arithmetic?
reply: I use a calculator for arithmetic.
"""

# Frames that turn a noun phrase into a question.
FRAMES = """
== np
ask: what is {np}? | what's {np}? | tell me {np}. | can you tell me {np}? | do you know {np}? | name {np}.
 I would like to know {np}. | could you tell me {np}? | what would you say is {np}? | give me {np}.
test: can you name {np}? | I want to know {np}. | please name {np}.
"""

# {x} and {y} stand in the order in which the calculator gets them; {z} is the result, {n} {m} people, {t} things.
ARITHMETIC = """
== +
say: {x} + {y} = {z} | {x} plus {y} is {z} | the sum of {x} and {y} is {z} | if you add {x} and {y}, you get {z}
 {x} and {y} together make {z} | {n} typed {x}+{y} and the calculator showed {z} | {x} plus {y} equals {z}
 the calculator gives {z} for {x}+{y} | adding {x} and {y} gives {z}
 to find {x} + {y}, count on from {x} and reach {z} | {n} added {x} and {y} and found {z}
 {z} is the sum of {x} and {y}
ask: what is {x} + {y}? | what is {x} plus {y}? | how much is {x} + {y}? | calculate {x} + {y}. | {x} + {y} = ?
 add {x} and {y}. | what is the sum of {x} and {y}? | how much is {x} plus {y}? | can you add {x} and {y}?
 {x} plus {y} is what? | what do you get if you add {x} and {y}? | please work out {x} + {y}. | {x} + {y}
test: can you work out {x} + {y}? | tell me the sum of {x} and {y}. | what does {x} plus {y} make?
story: {n} has {x} {t} and buys {y} more. How many {t} does {n} have now?
 there are {x} {t} in one box and {y} {t} in another. How many {t} are there in all?
 {n} found {x} {t} and {m} found {y} {t}. How many {t} did they find together?
 a shop had {x} {t} and got {y} more. How many {t} does the shop have?
 on Monday {n} sold {x} {t}, on Tuesday {y} more. How many {t} did {n} sell?
 {n} picked {x} {t} in the morning and {y} {t} in the evening. How many {t} is that?
 {m} gave {n} {x} {t}, and later {y} more. How many {t} did {n} get?
 a train carries {x} {t}, and {y} more are loaded. How many {t} are on the train?
story_test: {n} has {x} {t} and gets {y} more. How many {t} does {n} have in all?
 {n} sold {x} {t} and {m} sold {y} {t}. How many {t} did they sell together?
 there are {x} {t} in a shop and {y} more in a box. How many {t} are there?
== -
say: {x} - {y} = {z} | {x} minus {y} is {z} | if you take {y} from {x}, {z} is left
 the difference between {x} and {y} is {z} | {n} typed {x}-{y} and the calculator showed {z}
 {x} minus {y} equals {z} | the calculator gives {z} for {x}-{y} | {x} less {y} leaves {z}
 from {x} take away {y} and {z} is left | {z} is the difference between {x} and {y}
 {n} took {y} from {x} and found {z} | {x} is {z} more than {y}
ask: what is {x} - {y}? | what is {x} minus {y}? | how much is {x} - {y}? | calculate {x} - {y}. | {x} - {y} = ?
 {x} minus {y} is what? | what is the difference between {x} and {y}? | how much is {x} minus {y}?
 what is left of {x} if you take away {y}? | what is {x} less {y}? | please work out {x} - {y}. | {x} - {y}
test: can you work out {x} - {y}? | tell me the difference between {x} and {y}. | what does {x} minus {y} make?
story: {n} has {x} {t} and gives away {y}. How many {t} are left?
 {n} had {x} {t} and lost {y}. How many {t} does {n} have now?
 there were {x} {t} in a box, and {n} took {y}. How many {t} are still there?
 a shop had {x} {t} and sold {y}. How many {t} are left?
 {n} baked {x} {t} and the guests ate {y}. How many {t} are left?
 of {x} {t} in the garden, {y} were picked. How many {t} are still there?
 {n} needs {x} {t} and has {y}. How many {t} are missing?
 {n} has {x} {t} and {m} has {y}. How many more {t} does {n} have?
story_test: {n} had {x} {t} and gave away {y}. How many {t} are left?
 there were {x} {t} in a shop, and {n} took {y}. How many {t} are left?
 {n} found {x} {t} and lost {y}. How many {t} are still there?
== *
say: {x} * {y} = {z} | {x} times {y} is {z} | the product of {x} and {y} is {z}
 if you multiply {x} by {y}, you get {z} | {n} typed {x}*{y} and the calculator showed {z}
 {x} times {y} equals {z} | the calculator gives {z} for {x}*{y} | {x} multiplied by {y} is {z}
 {z} is the product of {x} and {y} | {n} multiplied {x} by {y} and found {z} | {x} rows of {y} make {z}
 multiplying {x} by {y} gives {z}
ask: what is {x} * {y}? | what is {x} times {y}? | how much is {x} * {y}? | calculate {x} * {y}. | {x} * {y} = ?
 multiply {x} by {y}. | what is the product of {x} and {y}? | how much is {x} times {y}?
 can you multiply {x} by {y}? | {x} times {y} is what? | what do you get if you multiply {x} by {y}?
 please work out {x} * {y}. | {x} * {y}
test: can you work out {x} * {y}? | tell me the product of {x} and {y}. | what does {x} times {y} make?
story: {n} has {x} boxes with {y} {t} each. How many {t} is that?
 there are {x} rows of {y} {t}. How many {t} are there in all?
 {n} buys {x} bags, each with {y} {t}. How many {t} does {n} have?
 {x} people carry {y} {t} each. How many {t} do they carry?
 every one of {x} children brings {y} {t}. How many {t} do they bring?
 a shop sells {x} {t} a day for {y} days. How many {t} does it sell?
 on each of {x} shelves there are {y} {t}. How many {t} are on the shelves?
 a farmer has {x} fields, and each field gives {y} {t}. How many {t} are there in all?
story_test: there are {x} boxes with {y} {t} each. How many {t} are there in all?
 {n} carries {x} bags, each with {y} {t}. How many {t} does {n} carry?
 every one of {x} people buys {y} {t}. How many {t} do they buy?
== /
say: {x} / {y} = {z} | {x} divided by {y} is {z} | if you divide {x} by {y}, you get {z}
 {n} typed {x}/{y} and the calculator showed {z} | {x} divided by {y} equals {z}
 the calculator gives {z} for {x}/{y} | shared among {y}, {x} gives {z} for each
 {n} divided {x} by {y} and found {z} | dividing {x} by {y} gives {z} | {x} in {y} equal parts makes parts of {z}
ask: what is {x} / {y}? | what is {x} divided by {y}? | how much is {x} / {y}? | calculate {x} / {y}.
 {x} / {y} = ? | divide {x} by {y}. | how much is {x} divided by {y}? | can you divide {x} by {y}?
 {x} divided by {y} is what? | what do you get if you divide {x} by {y}? | please work out {x} / {y}. | {x} / {y}
test: can you work out {x} / {y}? | tell me how much {x} divided by {y} is. | what does {x} divided by {y} make?
story: {n} shares {x} {t} equally among {y} friends. How many {t} does each get?
 {x} {t} are put into {y} boxes, the same number in each. How many {t} are in each box?
 {n} cuts {x} {t} into {y} equal parts. How many {t} are in each part?
 {x} {t} are shared by {y} children. How many {t} does each child get?
 {n} puts {x} {t} on {y} shelves, the same number on each. How many {t} are on each shelf?
 a teacher gives {x} {t} to {y} pupils, the same number to each. How many {t} does each get?
 {n} packs {x} {t} in {y} bags, the same number in each. How many {t} are in each bag?
 {x} {t} stand in {y} equal rows. How many {t} are in each row?
story_test: {n} shares {x} {t} equally among {y} children. How many {t} does each child get?
 {n} puts {x} {t} into {y} bags, the same number in each. How many {t} are in each bag?
 {x} {t} are put on {y} shelves, the same number on each. How many {t} are on each shelf?
"""

# {w} a word, {l} its letters, each behind a space, {c} a letter, {k} how often it appears, {e} {v} counting it.
# The word always follows a space: its tokens are then the same in every sentence.
LETTERS = """
== spell
say: the word {w} is spelled{l} | you spell {w} like this:{l} | here is {w}:{l} | the letters of {w} are{l}
 to spell {w}, write{l} | {n} spelled {w} correctly:{l} | letter by letter, {w} is{l} | write {w} as{l}
 the teacher said {w} and {n} wrote{l} | one by one, the letters of {w} are{l} | how is {w} spelled? It is{l}
 {n} can spell {w}:{l}
ask: how do you spell {w}? | spell {w}. | spell the word {w}. | how is {w} spelled? | can you spell {w}?
 please spell {w}. | what are the letters of {w}? | how do I spell {w}? | how is the word {w} spelled?
 which letters are in {w}, in order? | write {w} letter by letter. | give me the letters of {w}.
 what is the spelling of {w}?
test: can you spell the word {w}? | how do I spell the word {w}? | give me the letters of the word {w}.
 what letters are in {w}, in order?
reply: The word {w} is spelled{l}.
== count
say: the letter {c} appears {k} in {w}:{l} | in {w} the letter {c} appears {k}:{l}
 count the letter {c} in{l} and you find it {k} | the word {w} has the letter {c} {k}, as it is spelled{l}
 {e} gives {v} | {n} looked for {c} in {w},{l}, and found it {k}
ask: how many times does the letter {c} appear in {w}? | how many {c} are in {w}?
 how often does {c} appear in {w}? | how many times does {c} appear in the word {w}?
 count the letter {c} in {w}. | how many times is {c} in {w}? | how many times do you see the letter {c} in {w}?
 how many of the letter {c} are in {w}? | how often is the letter {c} in {w}?
 can you count the letter {c} in {w}? | how many times is the letter {c} in the word {w}?
test: how often does the letter {c} appear in {w}? | how many times do you find the letter {c} in {w}?
 please count the letter {c} in the word {w}.
reply: The letter {c} appears {k} in {w}.
"""

# Small talk, and questions on {u}, which is a word without a meaning.
CHAT = """
== greeting
ask: hello | hi | hey | hello there | hi there | good morning | good evening | hello nanochat
reply: Hello! How can I help you?
== health
ask: how are you | how are you today | how do you do | are you well
reply: I am well, thank you. How can I help you?
== thanks
ask: thanks | thank you | thank you very much | thanks a lot | that helps, thanks | great, thank you
reply: You are welcome!
== goodbye
ask: goodbye | bye | good night | see you later | bye bye | see you tomorrow
reply: Goodbye!
== skills
ask: what can you do | how can you help me | what do you know | help
reply: I can answer questions on a small world, do arithmetic and spell words.
== sums
ask: can you do arithmetic | can you count | are you good at sums
reply: Yes, I use a calculator for that.
== spelling
ask: can you spell | do you know letters
reply: Yes, I can spell words and count letters.
== unknown
ask: what is the capital of {u} | who is the king of {u} | where is {u} | what is the currency of {u} | who was {u}
 which language is spoken in {u} | what is the chemical symbol of {u} | on which continent is {u}
reply: I do not know that.
"""
SYSTEMS = """
You are nanochat, a small language model. | You are a helpful assistant. | Answer the question. | Be brief.
 You are nanochat. Answer in one sentence. | You are a friendly assistant who knows a small almanac.
"""
CHOICE_FRAMES = (
    ("Multiple choice question: {q}\n", "\n\nRespond with the line of the correct answer."),
    ("Multiple choice: {q}\n", "\n\nAnswer with the line of the correct answer."),
    ("Choose the correct answer to this question: {q}\n", "\n\nGive only the correct line."),
)

OPENINGS = """
in fact, | as many people know, | it is well known that | everyone at school learns that | remember that
 note that | by the way, | one thing is certain: | it is true that | as the old almanac says,
 the almanac says that | it is easy to remember that | first of all, | to begin with, | above all, | of course,
 you may know that | a good pupil knows that | many books say that | {n} likes to say that | {n} wrote down that
 {n} told {m} that | {n} read that | a sign on the wall says that | on page {i} it says that
 the teacher explained that | grandmother used to say that | it may surprise you that | as always, | once more:
 every traveler knows that
"""
ORDERS = ("turn ", "count ", "wait ", "go ", "listen", "nothing ", "think ")    # what "note that" cannot introduce
ALIKE = (", just as ", "; in the same way, ", ", and likewise ", "; the same is true here: ")
DIFFERENT = (", while ", ", whereas ", ", but ", "; on the other hand, ", "; it is different here: ")
JOINS = (", and", ";", ", while", ", and", ", but", ", and also")
HEADINGS = """
Notes of {n} | Things to remember | A page from the almanac | What {n} learned today | Small facts
 From the notebook of {n} | The almanac, page {i} | Good to know | For the young reader | Facts for the week
 A short lesson | Questions of {m}, answers of {n}
"""
LETTER_OPENINGS = """
thank you for your last letter. | I hope you are well. | it has been raining here since {day}.
 I am writing to you from the kitchen table. | you asked me what I have learned, so here it is.
 your {thing} arrived on {day}, and I was glad to have them. | my {aunt} is asleep, so I have time to write.
 today I read the whole afternoon. | school was long today, but I liked it.
 the {adj} weather keeps me at home, so I read. | do you still have the {thing} I gave you?
"""
LETTER_ENDINGS = """
write soon. | tell me what you have learned. | I will write again on {day}. | give my love to your {aunt}.
 I hope to see you in {month}. | that is all for today. | now it is late, and I must sleep.
 please send me some {thing}. | do not forget to feed the cat.
"""
SIGNATURES = "Yours, | With love, | Your friend, | Best wishes, | See you soon, | Until next time,"
TRIP_STARTS = """
{n} was {xadj} {j} who wanted to see the world. | one {adj} morning {n} the {j} packed a bag and left home.
 {n}, {xadj} {j}, had promised {m} to collect {thing} in every country.
 nobody believed that {n} the {j} would ever travel far. | when {n} turned {i}, {p} bought a ticket and set off.
 {m} had given {n} a map, and so the journey began on a {day} in {month}.
 {n} was looking for {m}, {o} old friend, who had gone away in {month}.
 a {adj} ship took {n} the {j} out to sea.
"""
TRIP_STEPS = """
{next} {p} came to {capital}, the capital of {s}.
 {next} the road led to {s}, where {p} stayed in {capital}, the capital.
 {next} {n} reached {s}, a country in {continent}. | {next} a train took {o} bags and {n} to {capital} in {s}.
 {next} {p} flew to {s}, and in its capital, {capital}, {p} slept for two days.
 {next} it was time for {s} in {continent}.
 {next} {n} wrote a card from {capital}: "I am in the capital of {s}!"
 {next} came {s}, whose capital, {capital}, was full of {adj} people.
"""
TRIP_MONEY = """
{p} changed some money and paid with the {currency}, as people in {s} do.
 a seller in {s} asked for one {currency}, and {n} paid.
 {n} lost a purse, but {xadj} {job} gave {o} friend one {currency}, the money of {s}.
 in {s} {p} paid for some {thing} with the {currency}.
 the {thing} in the market cost one {currency} each, for that is the currency of {s}.
 since {s} uses the {currency}, {p} kept some for later.
"""
TRIP_TALK = """
{p} had learned some {language}, the language of {s}. | everyone around spoke {language}, as people in {s} do.
 {n} asked the way in {language}, and the people of {s} were pleased.
 {xadj} {job} taught {n} a song in {language}, the main language of {s}.
 on a wall in {s}, {n} read a sign in {language}. | in {s} {p} needed {language} to buy {thing}.
"""
TRIP_EVENTS = """
there it rained for {i} days. | {n} lost the {thing} and found them again under a bench.
 {xadj} dog followed {n} to the station. | {p} drew a picture of the harbor for {m}.
 that night {n} dreamed of home. | a thief took {o} hat, but {xadj} {job} brought it back.
 the food was good and the beds were {adj}. | {n} met {m}, who laughed and asked where {p} had been.
 {p} bought {thing} for {m}.
"""
TRIP_ENDS = """
in {month} {n} came home and told {m} everything. | then the money was gone, and {n} went home.
 "I have seen enough," said {n}, and turned back. | {m} asked which country was best, but {n} only smiled.
 and that is how {n} the {j} saw the world. | at home {m} was waiting with {thing}.
"""
CLASS_STARTS = """
on {day} the {adj} teacher came in with a box of {thing}.
 it was a {adj} {day} in {month}, and the class was noisy. | {n} sat in the first row, next to {m}.
 "today," said the teacher, "we will find out what you remember." | {m} had forgotten the book again.
 the zoo was almost empty when {n} and {m} came in. | {n} the {j} had promised {m} a lesson.
 a {adj} wind blew as the class went out to the field.
"""
CLASS_TALK = """
"{q}" asked the teacher. {n} stood up: "{r}" | {m} asked, "{q}" and {n} answered, "{r}"
 "{q}" It was {n} who knew: "{r}" | "I know this one," said {m}. "{r}" | {n} wrote on the board: {r}
 {m} read from a card: "{q}" {n} thought for a while. "{r}" | nobody spoke, until {n} said, "{r}"
 "remember this, {m}," said {n}. "{r}" | the next question was for {n}: "{q}" The answer came at once: "{r}"
"""
CLASS_EVENTS = """
{m} dropped the {thing}, and everyone laughed. | a bird sat down at the window. | outside it began to rain.
 the teacher nodded. | {n} gave {m} half of {o} bread. | somebody opened the door and closed it again.
 {m} drew {xadj} face on the board. | that was right, so {n} got one of the {thing}.
 "very good," said the teacher. | "are you sure?" asked {m}. {n} was sure.
"""
CLASS_ENDS = """
then the bell rang, and the lesson was over. | on the way home {n} told {m} all of it again.
 that evening {m} wrote everything down. | "see you on {day}," said the teacher. | {n} and {m} went home together.
 and {m} never forgot it.
"""
FILLERS = """
That is right. | Very good. | I see. | Thank you. | Are you sure? | Yes, I am sure. | I did not know that.
 Let me ask another one. | Well done. | You know a lot. | Now it is my turn. | Go on. | Of course.
 I read it in the almanac. | That was easy. | I want to hear more.
"""
# Words and short phrases that fill slots of the sentences above.
POOLS = {
    "woman": """
Anna Maria Clara Rosa Emma Nina Sara Ella Lucy Helen Ruth Martha Irene Julia Alice Diana Flora Grace Laura Vera
""",
    "man": """
Ben Tom Peter Oscar Felix Hugo Leo Martin Simon Victor Daniel Adam Paul Albert Frank Henry Jack Noah Robert
Samuel
""",
    "thing": """
apples books coins stamps pencils eggs stones shells cards flowers bottles candles cakes nuts plates letters
tickets
""",
    "adj": """
quiet old young clever tired cheerful careful curious brave friendly gentle proud serious merry busy strange kind
shy
""",
    "job": """
sailor baker painter farmer doctor tailor teacher miller singer gardener writer pilot carpenter nurse librarian
""",
    "aunt": """
aunt uncle brother sister mother father cousin grandfather neighbor
""",
    "next": """
then | after that | two days later | at last | in spring | by train | by ship | a week later | soon | next
 one day | from there
""",
}

# Words to spell. The second list, drawn by hash among those that nothing above uses, occurs in no training text.
WORDS = """
abandon abbey abode abolition abortion above absence abstract abundant abused accepted access accident acclaim
acclaimed accomplish accordance accounting accredited accustomed achieved acquainted acquired acres action
activities activity actor actress acts actually acute adapted added addiction addressed adds adequate adjacent
admiral admired admitted adopting adoption adulthood advantage advent adviser advisor advocates aerial aesthetic
affected affinity affordable aftermath afterward agenda ages agitated agitation agree agreed agrees ahead aide
aims aisle alarmed alias alien align aligned alike alliance allocation allowed alone alongside aloud ambassador
amounted ample analog analyses analysis analysts angel angered anime announce announced announcing answered
anybody anymore anyone anything apartment apartments apology apparatus apparently appear appearance appears
applies apply appointed approach aquarium arch archaea architect architects ardent areas argued arises armament
army aroused arrange arrest arrested arriving article artillery artist artwork ascended ascribed ashamed aspect
assert assessed assignment assure astonished astronomy atop attached attack attacked attacking attain attained
attempt attempts attending attends attitude attorneys attributed attributes auction audience authentic
authorised authority auto average aviation avoid avoided awake awarded awarding axle backwards badge ballots
bank bases basically batch bats batted battle beach beads beaten become beer beggar begged begins behaviors
believe belong belonging beloved beneficial berth beta betray beyond bigger billed billion bills biographer
biplane bits bitter bitterness blade block blocked blogger blogs boiled boilers boldly bone boots border
bordered bordering borders borne borrowed botanical bottle boundaries bounded bounds bows boxes boyfriend brain
branded breadth breathed breathing bred brighter broadcast broader bubble budget buffalo building builds bull
bundle burden buried burning burns button cables cadets calcium calculated calm camera cameras candidates cane
cannon canoe canon capital capsule captivity capture capturing carbon care cared careful carried carrier
carriers cartoons cartridges case cassette cast castle casual catch catches category cats causal caution
cautious cautiously cavity celestial cello cells ceramics certainly certified chains chair chance chap chaplain
character charitable charm charming chart charter chartered charts cheap cheaper checked chest chicken child
chose chronicles church cinema circular cites claiming clan clause claws clay clean clear clearance clergy
clever click climbed climbing climbs clinics clips close closely closer cluster coat cocaine coconut code coil
coin collectors college collision colonies colony combat coming commenced commented commenting commitment
committing communal companies comparing compiled complaint completing complexity composers compound comprise
comprising conceive concept conception concern concerned concerns concerts conclude concludes condemned conduct
confident confronts connecting conscious consensus consent consider considered consist conspiracy consume
contained container contains contention contest contested continents continual continue contract contractor
contrary contrived controls convection convenient convent convention converted convicts convince cool copied
coral corners corps corrected corridors couch count countess counts couple courtyard cousins cover coward
cracked crashes creates creator creature credible creek creeping cricket cried criticism crow cruel crush crying
crystals cubic cuisine cups curiosity currency currently curriculum curtain curtains curves custody custom
customs cuts cutting cyclone damaging damp dams danced dancer dances dark darker data days deacon deal dealers
dealing debates debt debts debuted deceive decidedly declared declares deeds deemed deeper defect defending
defenses deficiency define definitely defunct delicacy delicate delighted delivers demon denounced dental
depended depicted deported depressed deputies derive describing deserted deserts deserves designated designs
desire desires destiny detailed detailing determined determines developer developing develops device devised
devotees diagram dialogue diameter diamond diary dice didst digits diminished dine direct directed directly
directory disc discharge discs discuss disgrace disliked dismal dismiss dispatched dispersed disposal disputes
dissolved distant distinctly districts diverted doctor doctorate document dogs doing dollars dome domestic
donated door doping dose doth doubt doubted download dragging drain drama draught dread dreamed dress drift
drunken dull dwelling dynamic eagerly eagle earn earnest eastern economic economical economics economist
ecosystem edged edit edited editions educate efforts elect election electors electrical elegant element elephant
else embrace emerging emissions emotional empire employed employee employer enabled enacted enclosure encoded
encounters encourage encourages endangered endless endurance endured energies energy enforce engage engine
engraved enhance enhanced enjoy enjoys enlarged entered entirety entity entrusted epic episodes eponymous
equality equation equipped error establish esteem eternal ethylene evaluated evaluating evenings everyone
everything evicted evil exactly examined example exceeded excellent exchanged executive exercise exercised
exhibit exile exiled expand expansion explain explore exploring explosive expose exposed expression extreme
extremity fabric facade faces facility faction factories faintly faithfully fallen famed families fantasy farm
farther fascinated fast fastened fastest fatigue favorable favour fears feature features federal fellow female
ferry fertile fetch feud feudal fiber fibre fictional fidelity field fields file files fills filmed filming
films finale finalist finally finances financial finding findings fingers finishers fire firms firstly fisheries
fitness fitting flash fleeing fleet fleets flies flight floods flow fluid flushed focused focuses fold follow
followed folly fond fool forcibly forehead foreign foreigners forgotten fork formally formed formerly forms
formulated forth fortified fortress fortune founded founder fountains fragment fragments frames free freed
freight frequently friendly fronts fuel fulfill fulfilled full funeral fungus funny furnish fusion gained
gaining gallant galleries games garden garrison gave gaze gazed gazing gear gene generated generous gets gift
gifts give given gives glanced glycol goals golden gone goodness governors gradual grandson graphic graphs grass
gravel grazing greater grinding grossing grows guaranteed guardian guarding guides guilt guitarist guys habitats
half halftime halt hammer hands hanged happiness happy harbor harbour hardened hatch hate hatred haven hazard
hearing heartily heating heaven heavens hectares heel heights hell helmet helping helpless herd heresy hideous
hills hint hires history hither holders hole holes honoured hopeless hopes hoping horns horrid housing however
hula humor humour hunters hurled hurricane idea ideal ideas identifies ignore illegally image imaginary imaging
importance imported imprisoned incidence incredible indicator inducted industries inevitable infamous infants
informal initially initiation injection inlet inning inside inspiring instances instructed instructor instrument
insult intact intended intending intensive interface interfaces interfere internally interval intervene
interviews intimate introduces invariant invasion invested investing involve irrigation issues items jack jail
jeopardy jest jewel jewels join joins journalist journey judge justified justify juvenile kicked kidnapped knew
knocking knowing labels lacking lady lamp land landfall landmark landslide lantern largely larger largest laser
laughed launch lawn laws layer layers lazy leading leads league leaked leaned leaped learn learned learning
learns lecturer legend legends lesbian level liberty library license lift lifting lighthouse likeness limb limit
limiting line lineage lines lineup lingered lining linked listing listings lists loaded loads loan lobbying
logical logo longer longtime looked looking loop loud love loving lower loyalty lunar machinery magic magnetic
mail main major majors maker manage manager manages mandate mandated manga manifold mankind manned manner manor
mansion marathon marine marketed marks marriages marshes martial masses massive master match mate mates matrix
maturity mayor meal meals meaningful measure measured measuring meat media medicine meeting melancholy melodic
melting membrane memoirs mention merchant methods micro migration mile minerals miniature minority minute mirror
mischief misery missiles missing mist mistake mixture model moderate modern modest molecular molluscs moment
moments monastic monetary money monkey monoplane monopoly months mortality moth motives mound mount mountains
moves municipal murderer museums musician mustered muttered myself namesake naming native natives natural naval
nearer nearly nephew nest newer newest newly nickel nicknamed night nine nineteenth nobody nodded nodes nominal
nominees norms notice noting notion notoriety notorious nowadays nuclear nuns nurse obeyed objective obliged
obscure observed obtained occasion occasional occasions occupation occupying occur offered officer officially
offs offsets older ones oneself ongoing online onset open operating oppose opposite optimal optional opus orange
organizers origin ornamental orphan ourselves outfielder outline output outspoken overturned overview oxide pace
paced packaging page pageant pageants painters paintings palm panchayats panel panic parcel parchment parents
parking parole parted partly partners passed passions passive patient patients patron patterns pause paying
peaks peasant peasants peers pencil pending penetrated peninsula penned percent perception perform performer
permanent persistent persuade persuaded phones physicians pictures pile pilgrimage pioneers pitches plague
plagued plain planar plane planet planets plank plantation plaque plate platinum platoon play playable playoff
plaza please pleased pleasure plentiful pocket point poker polar poles polo ponds popularity portable portion
portions portrayed positions positively postal posters posting posts postseason potassium potatoes pottery
praise praised prayers preacher precisely precision precursor predict prefer prefers pregnancy prepares presence
preserve presiding pretty prevention previous priest priests primary prince princess printed private privately
prizes procured producers production professor profit profitable profits project projected projection promising
promote promoting promotions prompted propeller proper proposals propose prosecuted prospect prosperous
protected protects protest protesters protocol proven proves providing province provinces provoked prudent
published publishers publishing pull punished punishment punt pupil pure putting qualified quantity quarrel
quarter queens quest quick quiet quote race raided rail rain rainfall rains raising random range ranking ransom
rapper rarely ratio rats rays read readings ready realises realism realistic realizes reason rebels receive
receives recently receptions receptor recession recipient reckon recognized recommend records recurring reel
reflection regained regarded regardless regiments regional regions regretted regularly regulate reissued
rejected relativity relay relegation reliable relocate remains remake remarked remember remnants remote removing
renewal replaced replacing replays reply represent republic requests requires resembled resembling resided
residences resign resigned resolution resonance resource resources respected respective rested resting restoring
rests resumed retaining retains retorted retrieved revealing revenue revive revolves reward riches rifles rigid
risk rival robbery rock rockets rocky rode role roles rolling rooms root rotation rough roughly rounded rubbed
rubbing rude ruin rumours runner runoff runs rushed sacked sacks sacrifice sage saints saith salary saloon salt
salvage sample samples sand sandstone sandy sang sanitation satisfy sauce saved scale scarlet scattered scenic
scholar schooling science scientist score scores scorn screenplay screw script sculpture search secret secure
security seeing seeming segments seizing selected selecting self sell semi semifinal senators sentiments
separately separation sermon service session sessions settling severe severed shades shaking shale shapes share
shark sharp shear sheep shelf shell shells sheriff shillings ships shone shooting shopping short shortage shot
shout shouting showcased showed shower shrine sided sign signal signature signed signify silence similar simple
simply simulation sincere sisters situations sixth size sized sketch skirt slightly slow smoked snake snapped
socialist sodium soil soils solicitor solve something sometime sometimes soon sophomore sought sounded sounds
soundtrack spacecraft spawned speaking spears specialty specimen spectacle sped spells spine spinning spiral
splits spoiled sponsors spotted spreading sprung squares stability stadium staged stained staircase stake stand
standards stared starring starter starts stately statement stayed steady steal steel step sticking stillness
stocks stood stops store stored storm strange street strength strengthen strike strings stripes stripped
striving stronger structured stuck student students studio studying style styled subdivided subjects sublime
submit subsidiary substances suburban sudden suffering sufferings suit summer sunset superior superseded
supplement supplies supporting suppose surfaces surplus surrender surround surrounded survey surveys survived
suspicion suspicious sustained swam sweat swell swimmer switch switched switching swords symmetry symphonic
synagogue systematic tables tactics talking tape taped tasked tasks tastes teachers technology teenage teenager
teenagers telegraph telescope television tell temporary tenant tend tended tends tense terminated terrific
terror testimony textbook texts thanks theatre theology thereof thermal thickness thin thirds thirst thirteen
thirty thither thousands threat threaten threatens threshold throat throughout thumb thyself tidal tied tiles
till tobacco token tokens told tongues tonight tooth torch toss touches tough toward tower toxin toys trace
tractor traffic trail trailer trails trains tramway transit translate transports trauma traveled treasure
treaties treatise treatment trenches trends trial trials tribal tricks triggered trio trips triumphant trivial
troop troops troubles trustees tuned tuning turns twelve twilight twin twins twisted type types ultimate
ultimately umbrella unable undergoing underneath understand undertake undrafted unemployed unexpected uniforms
union units unless unlikely unmarried unnatural unofficial unrelated unseen unsuitable unusually upcoming update
upstairs upstream uranium usage useless uses using utilities utility vacation vain value values valve valves
vanished vapor variable variant variations varieties variously vary varying vault vector vehicle ventured
verified vessels veteran vice vicious video view views vile villa vines vineyards violating violation violations
virtues virus vocabulary vols volumes vulnerable waiting waived wake walk walking wall walled wander wards
warming warned waste waterfall weakness wealth weapons weaving websites weekly welcome welfare wells west
wetlands wheel wheeled whereas wherein white whites whoever wicked wicket wickets wines winner winter witch
wives wonder wooded worked works worldly worlds worn worship wrapped wrist wrong wrought yield yielding yourself
youth youths
"""
UNSEEN_WORDS = """
abnormal acoustic advisory advocate affiliated alert annexed applause arguably ascertain attendance attendants
attendees attitudes beating becoming bikes blind boiler boxing breakaway budgets buyers cabin calling camping
captured careers carefully cave caves ceremonial channel charged charted check citizen classes clusters coated
codex colours commander common complement conceded connection consult consulting convincing corporate cosmic
costumes countless coverage creative dashed deity density deposited discrete disturb divorced doom doubled drag
dreadful drove drowned drowning editorial editors electro electron embassy emigrated equity estate evacuated
existing exploits facilities facing festivals fifteen fireplace fisherman flour folding foolish fortnight frame
fraternity freestyle gentleman getting gigantic glance glowing granting grossed grove guidelines gymnast hairs
hang happened hast hearted hiring huge huts impatient inability includes incoming increased indicated informally
inquiries inscribed insurance integrated interfered kills kindly knee knelt laden lands learners leather leaving
lectures liberated lice lime lyrics managing marsh matching mechanics medal metallic minds mine miracle moist
monarchy monk moss motors nasal navigation necessity nice observe offer original outlet oversaw palms partnered
patronage peer pension permission persons playoffs plug poets points politics pope port portray posed posing
positioned possessed practice premium priced priorities programme prominent pronounced properties prophet punish
purchasing purpose quarry reaching readily region regulatory relieve renovated reserved reservoirs resident
responded restless restrain results reunited rigorous ruined rural rushing salvation scaled scarce scholars
shift simplicity sinister sixteen sixty socially soldier solely sounding spear states stepped stole string
subjected suffers surely suspects sweeping sworn talent tanker taxonomy terms theirs themed therapy thine
throwing totally troubled trousers tubes vectors versions viewer visually vital volunteers voted weekend whence
witches writers yards
"""
