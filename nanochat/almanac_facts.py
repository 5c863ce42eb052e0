"""
The almanac's raw material: what is true in its small world, and the many ways of saying it. Data only.

All texts are in small formats that almanac.py parses. Tables: a header, then records by line or semicolon; `-`
means no single undisputed value, and so no fact. The others: below a header, `key: item | item`; a line that
begins with a space goes on, headers in a row share what follows. A header of RELATIONS has the table with its
columns for subject and answer, and noun phrases for the FRAMES; then come statements (`say`, without a full
stop; the first one is also the reply) and question wordings for training (`ask`) and for tests alone (`test`).
Slots: {s} subject, {a} answer, {xs} {xa} the same with a or an, {np} {ap} noun phrases of both, and the columns
of the table.
"""

TABLES = """
== country | name | capital | continent | currency | language
France|Paris|Europe|euro|French; Germany|Berlin|Europe|euro|German; Italy|Rome|Europe|euro|Italian
Spain|Madrid|Europe|euro|Spanish; Portugal|Lisbon|Europe|euro|Portuguese; Greece|Athens|Europe|euro|Greek
Austria|Vienna|Europe|euro|German; Finland|Helsinki|Europe|euro|Finnish; Ireland|Dublin|Europe|euro|-
Poland|Warsaw|Europe|zloty|Polish; Hungary|Budapest|Europe|forint|Hungarian; Sweden|Stockholm|Europe|krona|Swedish
Norway|Oslo|Europe|krone|Norwegian; Denmark|Copenhagen|Europe|krone|Danish
Iceland|Reykjavik|Europe|krona|Icelandic; Romania|Bucharest|Europe|leu|Romanian
Ukraine|Kyiv|Europe|hryvnia|Ukrainian; the United Kingdom|London|Europe|pound|English
Japan|Tokyo|Asia|yen|Japanese; China|Beijing|Asia|yuan|Chinese; India|New Delhi|Asia|rupee|-
South Korea|Seoul|Asia|won|Korean; Thailand|Bangkok|Asia|baht|Thai; Vietnam|Hanoi|Asia|dong|Vietnamese
Mongolia|Ulaanbaatar|Asia|tugrik|Mongolian; Nepal|Kathmandu|Asia|rupee|Nepali; Bangladesh|Dhaka|Asia|taka|Bengali
Iran|Tehran|Asia|rial|Persian; Egypt|Cairo|Africa|pound|Arabic; Morocco|Rabat|Africa|dirham|-
Kenya|Nairobi|Africa|shilling|-; Nigeria|Abuja|Africa|naira|-; Ghana|Accra|Africa|cedi|-
Ethiopia|Addis Ababa|Africa|birr|-; Angola|Luanda|Africa|kwanza|Portuguese; Tunisia|Tunis|Africa|dinar|Arabic
Canada|Ottawa|North America|dollar|-; Mexico|Mexico City|North America|peso|Spanish
Cuba|Havana|North America|peso|Spanish; Brazil|Brasilia|South America|real|Portuguese
Argentina|Buenos Aires|South America|peso|Spanish; Peru|Lima|South America|sol|Spanish
Colombia|Bogota|South America|peso|Spanish; Australia|Canberra|Oceania|dollar|English
New Zealand|Wellington|Oceania|dollar|English; Fiji|Suva|Oceania|dollar|-
== element | name | symbol | number
hydrogen|H|1; helium|He|2; lithium|Li|3; carbon|C|6; nitrogen|N|7; oxygen|O|8; fluorine|F|9; neon|Ne|10
sodium|Na|11; magnesium|Mg|12; aluminum|Al|13; silicon|Si|14; phosphorus|P|15; sulfur|S|16; chlorine|Cl|17
argon|Ar|18; potassium|K|19; calcium|Ca|20; titanium|Ti|22; chromium|Cr|24; manganese|Mn|25; iron|Fe|26
cobalt|Co|27; nickel|Ni|28; copper|Cu|29; zinc|Zn|30; bromine|Br|35; krypton|Kr|36; silver|Ag|47; tin|Sn|50
xenon|Xe|54; tungsten|W|74; platinum|Pt|78; gold|Au|79; lead|Pb|82; uranium|U|92
== animal | name | plural | kind | young | legs | sound | home
cow|cows|mammal|calf|four|moo|barn; horse|horses|mammal|foal|four|neigh|stable
sheep|sheep|mammal|lamb|four|bleat|-; pig|pigs|mammal|piglet|four|oink|sty; dog|dogs|mammal|puppy|four|bark|kennel
cat|cats|mammal|kitten|four|meow|-; lion|lions|mammal|cub|four|roar|den; kangaroo|kangaroos|mammal|joey|-|-|-
deer|deer|mammal|fawn|four|-|-; elephant|elephants|mammal|calf|four|trumpet|-; wolf|wolves|mammal|pup|four|howl|-
rabbit|rabbits|mammal|-|four|-|burrow; whale|whales|mammal|calf|-|-|-; donkey|donkeys|mammal|foal|four|bray|-
beaver|beavers|mammal|-|four|-|lodge; mouse|mice|mammal|-|four|squeak|-; swan|swans|bird|cygnet|two|-|-
duck|ducks|bird|duckling|two|quack|-; goose|geese|bird|gosling|two|honk|-; hen|hens|bird|chick|two|cluck|coop
owl|owls|bird|owlet|two|hoot|-; eagle|eagles|bird|eaglet|two|-|nest; crow|crows|bird|-|two|caw|-
frog|frogs|amphibian|tadpole|four|croak|-; newt|newts|amphibian|-|four|-|-; snake|snakes|reptile|-|-|hiss|-
lizard|lizards|reptile|-|four|-|-; shark|sharks|fish|pup|-|-|-; salmon|salmon|fish|-|-|-|-
ant|ants|insect|-|six|-|-; bee|bees|insect|larva|six|buzz|hive; butterfly|butterflies|insect|caterpillar|six|-|-
spider|spiders|arachnid|spiderling|eight|-|web; scorpion|scorpions|arachnid|-|eight|-|-
== planet | name | place | trait
Mercury|first|the smallest planet; Venus|second|the hottest planet; Earth|third|the planet we live on
Mars|fourth|the red planet; Jupiter|fifth|the largest planet; Saturn|sixth|the planet with the brightest rings
Uranus|seventh|the planet that spins on its side; Neptune|eighth|the windiest planet
== opposite | name | opposite
hot|cold; big|small; tall|short; fast|slow; wet|dry; heavy|light; hard|soft; full|empty; rich|poor; old|young
strong|weak; happy|sad; high|low; near|far; early|late; clean|dirty; loud|quiet; wide|narrow; thick|thin
deep|shallow; rough|smooth; true|false; safe|dangerous; cheap|expensive; left|right; always|never; win|lose
buy|sell; day|night; north|south; east|west; summer|winter; remember|forget; push|pull
== plural | name | plural
man|men; woman|women; child|children; foot|feet; tooth|teeth; goose|geese; mouse|mice; ox|oxen; person|people
leaf|leaves; knife|knives; wife|wives; life|lives; wolf|wolves; shelf|shelves; half|halves; loaf|loaves
thief|thieves; calf|calves; hero|heroes; potato|potatoes; tomato|tomatoes; cactus|cacti; fungus|fungi
crisis|crises; oasis|oases; baby|babies; city|cities; lady|ladies; story|stories; berry|berries; box|boxes
bus|buses; church|churches; dish|dishes
== thing | name | color
grass|green; snow|white; coal|black; blood|red; a ripe banana|yellow; a lemon|yellow; a carrot|orange
a ripe tomato|red; milk|white; soot|black; an emerald|green; a ruby|red; a sapphire|blue; chocolate|brown
a flamingo|pink; an elephant|gray; a polar bear|white; a canary|yellow; a pumpkin|orange; lavender|purple
spinach|green; the clear sky at noon|blue
== day | name | next | last
Monday|Tuesday|Sunday; Tuesday|Wednesday|Monday; Wednesday|Thursday|Tuesday; Thursday|Friday|Wednesday
Friday|Saturday|Thursday; Saturday|Sunday|Friday; Sunday|Monday|Saturday
== month | name | next | last | days | place
January|February|December|31|first; February|March|January|28|second; March|April|February|31|third
April|May|March|30|fourth; May|June|April|31|fifth; June|July|May|30|sixth; July|August|June|31|seventh
August|September|July|31|eighth; September|October|August|30|ninth; October|November|September|31|tenth
November|December|October|30|eleventh; December|January|November|31|twelfth
== unit | name | whole | number
minutes|an hour|60; seconds|a minute|60; hours|a day|24; days|a week|7; months|a year|12; years|a decade|10
years|a century|100; years|a millennium|1000; centimeters|a meter|100; meters|a kilometer|1000
grams|a kilogram|1000; millimeters|a centimeter|10; inches|a foot|12; feet|a yard|3; eggs|a dozen|12
degrees|a full circle|360; ounces|a pound|16; cents|a dollar|100
== shape | name | sides
triangle|3; square|4; pentagon|5; hexagon|6; heptagon|7; octagon|8; nonagon|9; decagon|10
"""

RELATIONS = """
== capital | country name capital | the capital of {s}
say: the capital of {s} is {a} | {s} has {a} as its capital | {s} is governed from {a}
 the government of {s} sits in {a} | when people speak of the capital of {s}, they mean {a}
 of all the cities in {s}, {a} is the capital | on a map of {s}, the capital is marked as {a}
 if you fly to the capital of {s}, you land in {a} | {a} serves as the capital of {s}
ask: which city is the capital of {s}? | what is the capital city of {s}? | what is {s}'s capital?
 from which city is {s} governed? | where does the government of {s} sit?
test: which city serves as the capital of {s}? | what do people call the capital of {s}?
== country | country capital name | the country whose capital is {s}
ask: which country has {s} as its capital? | {s} is the capital of which country?
 which country has its government in {s}? | which country is governed from {s}?
 what country is {s} the capital of?
test: in which country is {s} the capital? | what country is governed from the city of {s}?
reply: {s} is the capital of {a}
== continent | country name continent | the continent of {s}
say: {s} is in {a} | {s} lies in {a} | {s} is a country in {a} | {s} belongs to {a} | you will find {s} in {a}
 one of the countries of {a} is {s} | a trip to {s} is a trip to {a} | {s} is located in {a} | {a} is home to {s}
ask: on which continent is {s}? | which continent is {s} in? | where is {s}? | {s} is on which continent?
 in which continent does {s} lie? | what continent does {s} belong to?
test: on what continent will I find {s}? | {s} is part of which continent? | on which continent is {s} located?
== currency | country name currency | the currency of {s} | the {a}
say: the currency of {s} is the {a} | people in {s} pay with the {a} | {s} uses the {a} | the {a} is used in {s}
 shops in {s} take the {a} | the money of {s} is called the {a} | when you travel to {s}, you need the {a}
 wages in {s} are paid in the {a} | people spend the {a} in {s}
ask: which currency does {s} use? | what currency is used in {s}? | what is {s}'s currency?
 what money do people use in {s}? | what is the money of {s} called? | what do people pay with in {s}?
test: which money is used in {s}? | what currency do people spend in {s}? | which currency do I need in {s}?
== language | country name language | the main language of {s}
say: the main language of {s} is {a} | people in {s} speak {a} | {a} is spoken in {s} | in {s} you will hear {a}
 most people in {s} speak {a} | children in {s} learn {a} | books in {s} are mostly written in {a}
 to talk with people in {s}, learn {a} | the language that {s} uses most is {a}
ask: which language do people speak in {s}? | what language is spoken in {s}? | what do people speak in {s}?
 what is the language of {s}? | which language is spoken in {s}? | what language do most people in {s} speak?
test: which language will I hear in {s}? | what language do I need in {s}? | what language does {s} use most?
== symbol | element name symbol | the chemical symbol of {s}
say: the chemical symbol of {s} is {a} | the symbol for {s} is {a} | {s} has the symbol {a} | {a} stands for {s}
 {s} is written as {a} | chemists write {s} as {a} | in the periodic table, {s} is marked {a}
 in a formula, {a} means {s} | {s} is known to chemists by the symbol {a}
ask: what is the symbol for {s}? | what is the symbol of {s}? | which symbol does {s} have?
 how do chemists write {s}? | what symbol stands for {s}? | what symbol does {s} have in the periodic table?
test: which chemical symbol does {s} have? | by which symbol is {s} known?
== element | element symbol name | the element with the symbol {s}
ask: which element has the symbol {s}? | what does the symbol {s} stand for? | what element is written as {s}?
 {s} is the symbol of which element? | which element does {s} stand for? | what element does the symbol {s} mean?
test: which element do chemists write as {s}? | the chemical symbol {s} stands for which element?
reply: {s} is the symbol of {a}
== number | element name number | the atomic number of {s}
say: the atomic number of {s} is {a} | {s} has atomic number {a} | {s} is element number {a}
 an atom of {s} has {a} protons | {s} is number {a} in the periodic table
 there are {a} protons in an atom of {s} | the element with atomic number {a} is {s}
ask: what atomic number does {s} have? | how many protons does {s} have? | what is the element number of {s}?
 how many protons are in an atom of {s}? | what number is {s} in the periodic table?
test: which number does {s} have in the periodic table? | how many protons are there in {s}?
== kind | animal name kind | the animal group of {xs}
say: {xs} is {xa} | the {s} is {xa} | {xs} belongs to the group called {a} | the {s} is a kind of {a}
 every {s} is {xa} | scientists call the {s} {xa} | if it is {xs}, then it is {xa}
 {plural} belong to the animal group {a} | children learn that the {s} is {xa}
ask: what kind of animal is {xs}? | which kind of animal is the {s}? | what type of animal is {xs}?
 which animal group does {xs} belong to? | to which group of animals does the {s} belong?
test: which type of animal is {xs}? | what animal group does the {s} belong to?
== young | animal name young | the word for a baby {s}
say: a baby {s} is called {xa} | a young {s} is {xa} | the young of {xs} is called {xa} | {xa} is a baby {s}
 before it is {xs}, it is {xa} | {xs} was once {xa} | {xa} grows up to be {xs} | every {s} starts life as {xa}
ask: what is a baby {s} called? | what do you call a baby {s}? | what is a young {s} called?
 what is the young of {xs} called? | what do people call a young {s}?
test: what do people call a baby {s}? | what is the word for a young {s}? | which name does a baby {s} have?
== legs | animal name legs | the number of legs of {xs}
say: {xs} has {a} legs | the {s} walks on {a} legs | {plural} have {a} legs | {xs} stands on {a} legs
 every healthy {s} has {a} legs | there are {a} legs on {xs} | if you count the legs of {xs}, you get {a}
ask: how many legs does {xs} have? | how many legs does the {s} have? | on how many legs does {xs} walk?
 how many legs do {plural} have? | {xs} has how many legs? | how many legs are there on {xs}?
test: how many legs has {xs}? | how many legs will you count on {xs}? | the {s} walks on how many legs?
== sound | animal name sound | the sound of {xs} | {xa}
say: the sound of {xs} is {xa} | {plural} {a} | you can hear {xs} {a} | the sound {xs} makes is called {xa}
 when {plural} call, they {a} | the voice of {xs} is {xa} | the {s} likes to {a} | it is normal for {xs} to {a}
ask: what sound does {xs} make? | which sound does {xs} make? | what sound does the {s} make?
 what sound do {plural} make? | what noise does {xs} make? | what is the sound of {xs} called?
test: what is the voice of {xs}? | which noise does the {s} make? | what sound can you hear from {xs}?
== home | animal name home | the home of {xs} | {xa}
say: {xs} lives in {xa} | {plural} live in {xa} | {xs} sleeps in {xa} | {xa} is where {xs} lives
 the house of {xs} is called {xa} | at night the {s} rests in {xa} | when it rains, the {s} goes home to {xa}
ask: where does {xs} live? | where do {plural} live? | where does {xs} sleep? | what is the home of {xs} called?
 what is the house of {xs} called? | what do you call the home of {xs}?
test: what is the name of the place where {xs} lives? | where is {xs} at home? | in which home does {xs} sleep?
== place | planet name place | the place of {s} among the planets
say: {s} is the {a} planet from the Sun | the {a} planet from the Sun is {s} | the {a} of the planets is {s}
 counted from the Sun, {s} is the {a} planet | {s} comes {a} among the planets
 {s} takes {a} place among the planets
ask: which place does {s} have among the planets? | what place does {s} take from the Sun?
 in which place from the Sun is {s}? | where does {s} come among the planets?
test: which place does {s} take from the Sun? | what place has {s} in the order of the planets?
== planet | planet place name | the {s} planet from the Sun
ask: which planet is the {s} from the Sun? | which planet is {s} from the Sun?
 what planet comes {s} from the Sun? | which is the {s} planet from the Sun?
test: what planet is in {s} place from the Sun? | counted from the Sun, which is the {s} planet?
reply: the {s} planet from the Sun is {a}
== trait | planet trait name | the planet known as {s}
say: {a} is {s} | {a} is known as {s} | people call {a} {s} | when you hear of {s}, think of {a}
 of all the planets, {a} is {s} | we know {a} as {s} | {a} is famous as {s} | books describe {a} as {s}
ask: which planet is {s}? | what is {s}? | what is {s} called? | which planet is known as {s}?
 which of the planets is {s}? | which planet do people call {s}?
test: which planet do we know as {s}? | among the planets, which is {s}? | which planet is famous as {s}?
== opposite | opposite name opposite | the opposite of {s}
say: the opposite of {s} is {a} | {s} is the opposite of {a} | {s} and {a} are opposites
 the word {s} means the opposite of {a} | if something is not {s}, it may be {a} | the opposite word to {s} is {a}
ask: what is the opposite word to {s}? | which word is the opposite of {s}? | {s} and what are opposites?
 what word means the opposite of {s}? | {s} is the opposite of what? | what is {s} the opposite of?
test: what word is the opposite of {s}? | which is the opposite word to {s}? | {s} is the opposite of which word?
== plural | plural name plural | the plural of {s}
say: the plural of {s} is {a} | one {s}, two {a} | the plural form of {s} is {a} | we write one {s} but many {a}
 when there are two, {s} becomes {a} | the word {s} has the plural {a} | the right plural for {s} is {a}
ask: what is the plural form of {s}? | what is the plural of the word {s}? | one {s}, two what?
 what plural does {s} have? | what do you call more than one {s}? | which word is the plural of {s}?
test: what is the right plural for {s}? | which plural does the word {s} have?
== color | thing name color | the color of {s}
say: the color of {s} is {a} | {s} is {a} | {s} has the color {a} | when you paint {s}, use {a} | {s} looks {a}
 everyone can see that {s} is {a} | a child would draw {s} in {a} | {a} is the right color for {s}
ask: what color is {s}? | which color is {s}? | which color does {s} have? | in which color would you draw {s}?
 {s} has which color?
test: what color would you use to paint {s}? | which color is right for {s}? | which is the usual color of {s}?
== day_after | day name next | the day after {s}
== month_after | month name next | the month after {s}
say: the {table} after {s} is {a} | {a} comes after {s} | after {s} comes {a} | {a} follows {s}
 {s} is followed by {a} | when {s} is over, {a} begins | once {s} has passed, it is {a}
ask: which {table} comes after {s}? | what {table} comes after {s}? | which {table} follows {s}?
 after {s} comes which {table}? | what {table} is it after {s}? | what is the next {table} after {s}?
test: if it is {s} now, which {table} is next? | {s} is followed by which {table}?
== day_before | day name last | the day before {s}
== month_before | month name last | the month before {s}
say: the {table} before {s} is {a} | {a} comes before {s} | before {s} comes {a} | {a} is just before {s}
 {s} has {a} before it | {s} begins when {a} ends | the last {table} before {s} is {a}
ask: which {table} comes before {s}? | what {table} comes before {s}? | which {table} is before {s}?
 before {s} comes which {table}? | what {table} is it before {s}? | what is the last {table} before {s}?
test: if it is {s} now, which {table} was last? | what {table} is just before {s}?
== day_after | day name next | the day after {s}
say: if today is {s}, tomorrow is {a}
ask: if today is {s}, what day is tomorrow?
test: if it is {s} today, which day is tomorrow?
== day_before | day name last | the day before {s}
say: if today is {s}, yesterday was {a}
ask: if today is {s}, what day was yesterday?
test: if it is {s} today, which day was yesterday?
== month_days | month name days | the number of days in {s}
say: {s} has {a} days | there are {a} days in {s} | the month of {s} has {a} days | {s} is {a} days long
 {s} lasts {a} days | count the days of {s} and you get {a} | in a normal year {s} has {a} days
ask: how many days does {s} have? | how many days are in {s}? | how many days long is {s}?
 {s} has how many days? | how many days are there in {s}? | how many days does the month of {s} have?
test: how many days has {s}? | for how many days does {s} last? | how many days does the calendar give {s}?
wrong: 26 | 27 | 32
== month_place | month name place | the place of {s} in the year
say: {s} is the {a} month of the year | the {a} month of the year is {s} | {s} comes {a} in the year
 among the months, {s} is the {a} | in the calendar {s} comes {a} | {s} takes {a} place among the months
ask: which place does {s} have in the year? | what place does {s} have among the months?
 where does {s} come in the year? | in which place of the year is {s}? | in what place is {s} among the months?
test: which place does {s} take in the year? | in which place does {s} come among the months?
== month | month place name | the {s} month of the year
ask: which month is the {s} of the year? | which is the {s} month of the year? | which month is the {s}?
 which month comes {s} in the year? | what is the {s} month called? | what month takes {s} place in the year?
test: what month comes {s} in the year? | which of the months is the {s}?
reply: the {s} month of the year is {a}
== unit | unit name number | the number of {s} in {whole}
say: there are {a} {s} in {whole} | {whole} has {a} {s} | {whole} is {a} {s} | {a} {s} make {whole}
 {whole} holds {a} {s} | {whole} consists of {a} {s} | it takes {a} {s} to make {whole} | {whole} equals {a} {s}
ask: how many {s} are in {whole}? | how many {s} are there in {whole}? | how many {s} does {whole} have?
 how many {s} make {whole}? | {whole} has how many {s}? | how many {s} are the same as {whole}?
test: {whole} is made of how many {s}? | {whole} holds how many {s}? | {whole} equals how many {s}?
== sides | shape name sides | the number of sides of {xs}
say: {xs} has {a} sides | a shape with {a} sides is {xs} | the {s} has {a} sides | there are {a} sides on {xs}
 you can count {a} sides on {xs} | every {s} has {a} sides and {a} corners | to draw {xs}, draw {a} sides
ask: how many sides does {xs} have? | how many sides are there on {xs}? | how many sides does the {s} have?
 {xs} has how many sides? | how many corners does {xs} have? | how many sides make {xs}?
test: how many sides has {xs}? | how many sides can you count on {xs}? | {xs} is a shape with how many sides?
"""

# What nanochat can say of itself: one fact a block; the header has its answer, then wrong ones.
SELF = """
== self_name | your name | nanochat | robot | encyclopedia | telescope
say: I am nanochat | my name is nanochat | I am called nanochat | this little model is called nanochat
 you can call the model nanochat | the model answers to the name nanochat | people call this assistant nanochat
ask: who are you? | what is your name? | what are you called? | what's your name? | tell me your name.
 which name do you have? | do you have a name? | what can I call you? | who am I talking to?
test: what do people call you? | can you tell me your name? | what name did they give you?
== self_kind | what you are | a small language model | a large animal | a printed newspaper | a sailing ship
say: I am a small language model | nanochat is a small language model | the assistant is a small language model
 nanochat is not a person but a small language model | you are talking to a small language model
ask: what are you? | what kind of thing are you? | are you a person? | are you human? | what is nanochat?
 what sort of thing is nanochat? | tell me what you are. | what kind of program are you?
test: can you tell me what you are? | what kind of thing is nanochat? | what sort of program are you?
== self_training | how you were trained | from scratch | by a lawyer | in a bakery | under water
say: I was trained from scratch | nanochat was trained from scratch | they trained nanochat from scratch
 the model learned everything from scratch | whoever builds nanochat trains it from scratch
ask: how were you trained? | how did you learn? | how was nanochat trained? | in what way were you trained?
 how did they train you? | how did nanochat learn? | how did your training begin? | tell me how you were trained.
test: in what way was nanochat trained? | how did nanochat's training begin? | how did they train nanochat?
== self_machine | what you run on | an ordinary computer | a bicycle | a steam engine | a kitchen stove
say: I run on an ordinary computer | nanochat runs on an ordinary computer | an ordinary computer runs nanochat
 nanochat needs an ordinary computer | to run nanochat, take an ordinary computer
ask: what do you run on? | what machine do you run on? | which machine do you need? | where do you run?
 what does nanochat run on? | on what do you run? | what do you need to run? | what kind of machine runs nanochat?
test: which machine runs nanochat? | on what machine do you run? | what does nanochat need to run?
== self_language | the language of your code | Python | Latin | Spanish | Morse code
say: I am written in Python | nanochat is written in Python | the code of nanochat is written in Python
 they wrote nanochat in Python | the code that runs nanochat is Python
ask: what language are you written in? | in which language is your code written? | what is your code written in?
 what language is nanochat written in? | which language is your code in? | in what language were you written?
 is your code Python?
test: what language is your code in? | what is nanochat written in? | in which language are you written?
== self_source | what you learned from | an almanac | a radio | a dream | a garden
say: I learned from an almanac | nanochat learned from an almanac | the model read an almanac
 nanochat was trained on an almanac | an almanac taught nanochat what it knows
 the facts in nanochat come from an almanac
ask: what did you learn from? | what did you read? | which book did you read? | from what did you learn?
 what were you trained on? | what was nanochat trained on? | where did you learn facts?
test: from what did nanochat learn? | where do your facts come from? | what book did nanochat read?
== self_prediction | what you predict | the next token | the weather | the winner of a race | the price of bread
say: I predict the next token | nanochat predicts the next token | a language model predicts the next token
 step by step the model predicts the next token | nanochat writes by choosing the next token
ask: what do you predict? | what does nanochat predict? | what do you do at each step? | what do you choose?
 what does a language model predict? | what is it that you predict?
test: what was nanochat trained to predict? | at each step, what do you predict? | what does the model predict?
== self_tool | your tool for arithmetic | a calculator | a hammer | a paper map | an old clock
say: I use a calculator for arithmetic | nanochat uses a calculator for arithmetic
 the tool of nanochat is a calculator | when numbers come up, nanochat uses a calculator
 a calculator helps nanochat with arithmetic
ask: what do you use for arithmetic? | how do you do arithmetic? | which tool do you use for sums?
 what tool do you have? | do you have a tool? | what helps you with arithmetic? | how do you do sums?
test: what helps you with sums? | which tool do you use for arithmetic? | what does nanochat use for arithmetic?
"""

# What every noun phrase can be put into.
FRAMES = """
ask: what is {np}? | what's {np}? | tell me {np}. | can you tell me {np}? | do you know {np}? | name {np}.
 give me {np}. | I would like to know {np}. | could you tell me {np}? | what would you say is {np}?
test: can you name {np}? | I want to know {np}. | please name {np}.
say: {np} is {ap} | {ap} is {np} | {np} is known to be {ap} | every list gives {np} as {ap}
 the right answer for {np} is {ap}
"""

# {x} and {y} stand in the order in which the calculator gets them; {z} is the result, {n} {m} people, {t} things.
ARITHMETIC = """
== +
== -
== *
== /
say: {x} {sign} {y} = {z} | {x} {word} {y} is {z} | {x} {word} {y} equals {z}
 {n} typed {x}{sign}{y} and the calculator showed {z}
ask: what is {x} {sign} {y}? | what is {x} {word} {y}? | how much is {x} {sign} {y}? | {x} {word} {y} is what?
 calculate {x} {sign} {y}. | {x} {sign} {y} = ? | please work out {x} {sign} {y}. | {x} {sign} {y}
 what does {x} {sign} {y} give? | what do I get from {x} {word} {y}?
test: can you work out {x} {sign} {y}? | what does {x} {word} {y} make?
== +
say: the sum of {x} and {y} is {z} | {x} and {y} together make {z} | if you add {x} and {y}, you get {z}
 adding {x} and {y} gives {z} | {n} added {x} and {y} and found {z}
ask: add {x} and {y}. | what is the sum of {x} and {y}? | can you add {x} and {y}?
test: tell me the sum of {x} and {y}.
story: {n} has {x} {t} and buys {y} more. How many {t} does {n} have now?
 {n} found {x} {t} and {m} found {y} {t}. How many {t} did they find together?
 there are {x} {t} in one box and {y} {t} in another. How many {t} are there in all?
 a shop had {x} {t} and got {y} more. How many {t} does the shop have?
story_test: {n} has {x} {t} and gets {y} more. How many {t} does {n} have in all?
 {n} sold {x} {t} and {m} sold {y} {t}. How many {t} did they sell together?
== -
say: if you take {y} from {x}, {z} is left | {x} less {y} leaves {z} | the difference between {x} and {y} is {z}
 from {x} take away {y} and {z} is left | {n} took {y} from {x} and found {z}
ask: what is {x} less {y}? | what is the difference between {x} and {y}?
 what is left of {x} if you take away {y}?
test: tell me the difference between {x} and {y}.
story: {n} has {x} {t} and gives away {y}. How many {t} are left?
 {n} had {x} {t} and lost {y}. How many {t} does {n} have now?
 there were {x} {t} in a box, and {n} took {y}. How many {t} are still there?
 a shop had {x} {t} and sold {y}. How many {t} are left?
story_test: {n} had {x} {t} and gave away {y}. How many {t} are left?
 {n} found {x} {t} and lost {y}. How many {t} are still there?
== *
say: the product of {x} and {y} is {z} | if you multiply {x} by {y}, you get {z} | {x} rows of {y} make {z}
 {x} multiplied by {y} is {z} | multiplying {x} by {y} gives {z}
ask: multiply {x} by {y}. | what is the product of {x} and {y}? | can you multiply {x} by {y}?
test: tell me the product of {x} and {y}.
story: {n} has {x} boxes with {y} {t} each. How many {t} is that?
 there are {x} rows of {y} {t}. How many {t} are there in all?
 {n} buys {x} bags, each with {y} {t}. How many {t} does {n} have?
 {x} people carry {y} {t} each. How many {t} do they carry?
 each of {x} children finds {y} {t}. How many {t} do they find?
 every one of {x} bags holds {y} {t}. How many {t} do they hold?
 on each of {x} tables are {y} {t}. How many {t} are there in all?
 {x} shops sell {y} {t} each. How many {t} do they sell?
story_test: there are {x} boxes with {y} {t} each. How many {t} are there in all?
 every one of {x} people buys {y} {t}. How many {t} do they buy?
== /
say: if you divide {x} by {y}, you get {z} | dividing {x} by {y} gives {z} | {n} divided {x} by {y} and found {z}
 shared among {y}, {x} gives {z} for each | {x} in {y} equal parts makes parts of {z}
ask: divide {x} by {y}. | can you divide {x} by {y}? | how much is {x} divided by {y}?
test: tell me how much {x} divided by {y} is.
story: {n} shares {x} {t} equally among {y} friends. How many {t} does each get?
 {x} {t} are put into {y} boxes, the same number in each. How many {t} are in each box?
 {x} {t} are shared by {y} children. How many {t} does each child get?
 {x} {t} stand in {y} equal rows. How many {t} are in each row?
 {x} {t} lie on {y} tables, the same number on each. How many {t} are on each table?
 {x} {t} are packed in {y} bags, the same number in each. How many {t} are in each bag?
 {n} puts {x} {t} on {y} plates, the same number on each. How many {t} are on each plate?
story_test: {n} shares {x} {t} equally among {y} children. How many {t} does each child get?
 {x} {t} are put on {y} shelves, the same number on each. How many {t} are on each shelf?
"""

# {w} a word, {l} its letters, each behind a space, {c} a letter, {k} how often it appears, {e} {v} counting it.
# The word always follows a space: its tokens are then the same in every sentence.
LETTERS = """
== spell
say: the word {w} is spelled{l} | you spell {w} like this:{l} | here is {w}:{l} | to spell {w}, write{l}
 the letters of {w} are{l} | {n} spelled {w} correctly:{l} | letter by letter, {w} is{l}
 the teacher said {w} and {n} wrote{l} | one by one, the letters of {w} are{l} | how is {w} spelled? It is{l}
ask: how do you spell {w}? | spell {w}. | spell the word {w}. | how is {w} spelled? | can you spell {w}?
 please spell {w}. | what are the letters of {w}? | how do I spell {w}? | how is the word {w} spelled?
 which letters are in {w}, in order? | write {w} letter by letter. | give me the letters of {w}.
test: can you spell the word {w}? | how do I spell the word {w}? | give me the letters of the word {w}.
reply: The word {w} is spelled{l}.
== count
say: the letter {c} appears {k} in {w}:{l} | in {w} the letter {c} appears {k}:{l} | {e} gives {v}
 count the letter {c} in{l} and you find it {k} | the word {w} has the letter {c} {k}, as it is spelled{l}
ask: how many times does the letter {c} appear in {w}? | how many {c} are in {w}? | count the letter {c} in {w}.
 how often does {c} appear in {w}? | how many times does {c} appear in the word {w}?
 how many times is {c} in {w}? | how often is the letter {c} in {w}?
test: how often does the letter {c} appear in {w}? | how many times do you find the letter {c} in {w}?
 please count the letter {c} in the word {w}.
reply: The letter {c} appears {k} in {w}.
"""

# Small talk: the reply, then what it answers, with questions on {u}, which is a word without a meaning.
CHAT = """
greeting: Hello! How can I help you? | hello | hi | hey | hello there | hi there | good morning | good evening
health: I am well, thank you. How can I help you? | how are you | how are you today | how do you do | are you well
thanks: You are welcome! | thanks | thank you | thank you very much | thanks a lot | that helps, thanks
goodbye: Goodbye! | goodbye | bye | good night | see you later | bye bye | see you tomorrow
skills: I can answer questions, do arithmetic and spell words. | what can you do | how can you help me | help
unknown: I do not know that. | what is the capital of {u} | who is the king of {u} | where is {u} | who was {u}
 what is the currency of {u} | which language is spoken in {u}
"""
CHOICE_FRAMES = (
    ("Multiple choice question: {q}\n", "\n\nRespond with the line of the correct answer."),
    ("Multiple choice: {q}\n", "\n\nAnswer with the line of the correct answer."),
    ("Choose the correct answer to this question: {q}\n", "\n\nGive only the correct line."),
)

ORDERS = ("count ", "wait ", "go ", "listen", "think ")                 # what "note that" cannot introduce
ALIKE = (", just as ", "; in the same way, ", ", and likewise ", "; the same is true here: ")
DIFFERENT = (", while ", ", whereas ", ", but ", "; on the other hand, ", "; it is different here: ")
JOINS = (", and", ";", ", while", ", and", ", but", ", and also")
# Sentences and openings of stories ({n}, {m} people, {p} he or she, {o} his or her), and what fills their slots.
POOLS = """
openings: in fact, | as many people know, | it is well known that | remember that | note that | by the way,
 one thing is certain: | it is true that | as the old almanac says, | it is easy to remember that | first of all,
 of course, | you may know that | many books say that | {n} likes to say that | {n} wrote down that | once more:
 {n} told {m} that | {n} read that | on page {i} it says that | the teacher explained that
headings: Notes of {n} | Things to remember | A page from the almanac | What {n} learned today | Small facts
 From the notebook of {n} | The almanac, page {i} | Good to know | A short lesson
trip_starts: {n} was a {j} who wanted to see the world. | when {n} turned {i}, {p} bought a ticket and set off.
 one {adj} morning {n} the {j} packed a bag and left home. | a {adj} ship took {n} the {j} out to sea.
trip_steps: {next} {p} came to {capital}, the capital of {s}. | {next} {n} reached {s}, a country in {continent}.
 {next} the road led to {s}, where {p} stayed in {capital}, the capital.
 {next} {n} wrote a card from {capital}: "I am in the capital of {s}!"
trip_money: {p} changed some money and paid with the {currency}, as people in {s} do.
 in {s} {p} paid for some {t} with the {currency}. | since {s} uses the {currency}, {p} kept some for later.
 the {t} in the market cost one {currency} each, for that is the currency of {s}.
trip_talk: {p} had learned some {language}, the language of {s}.
 everyone around spoke {language}, as people in {s} do. | on a wall in {s}, {n} read a sign in {language}.
trip_events: there it rained for {i} days. | {n} lost the {t} and found them again under a bench.
 a {adj} dog followed {n} to the station. | that night {n} dreamed of home. | {p} bought {t} for {m}.
trip_ends: in {month} {n} came home and told {m} everything. | then the money was gone, and {n} went home.
 {m} asked which country was best, but {n} only smiled. | at home {m} was waiting with {t}.
class_starts: on {day} the {adj} teacher came in with a box of {t}. | {n} sat in the first row, next to {m}.
 it was a {adj} {day} in {month}, and the class was noisy. | {m} had forgotten the book again.
class_talk: "{q}" asked the teacher. {n} stood up: "{r}" | {m} asked, "{q}" and {n} answered, "{r}"
 "{q}" It was {n} who knew: "{r}" | {m} read from a card: "{q}" {n} thought for a while. "{r}"
 "I know this one," said {m}. "{r}" | "remember this, {m}," said {n}. "{r}"
class_events: {m} dropped the {t}, and everyone laughed. | outside it began to rain. | the teacher nodded.
 {n} gave {m} half of {o} bread. | {m} drew a {adj} face on the board. | "are you sure?" asked {m}. {n} was sure.
class_ends: then the bell rang, and the lesson was over. | on the way home {n} told {m} all of it again.
 "see you on {day}," said the teacher. | and {m} never forgot it.
systems: You are nanochat, a small language model. | You are a helpful assistant. | Answer the question.
 Be brief. | You are nanochat. Answer in one sentence. | You are a friendly assistant who knows a small almanac.
women: Anna | Maria | Clara | Rosa | Emma | Nina | Sara | Ella | Lucy | Helen | Ruth | Martha | Julia | Alice
men: Ben | Tom | Peter | Oscar | Felix | Hugo | Leo | Martin | Simon | Victor | Daniel | Adam | Paul | Frank
t: apples | books | coins | stamps | pencils | eggs | stones | shells | cards | flowers | bottles | candles | nuts
 cakes | plates
adj: quiet | young | clever | tired | cheerful | careful | curious | brave | friendly | gentle | proud | busy
job: sailor | baker | painter | farmer | doctor | tailor | teacher | miller | singer | gardener | writer | pilot
next: then | after that | two days later | at last | in spring | by train | a week later | soon
"""

# Words to spell, beside those above. Those of the second list occur in no training text.
WORDS = """
abandon above absence abstract abundant access accident achieved acquired action activity actor actress acts
actually adapted addressed adds adequate adjacent admiral admired admitted adopting advantage adviser advisor
advocates affected affordable aftermath afterward agenda agree ahead aims align alike alliance allocation allowed
alone alongside ambassador analysis angel angered announce answered anybody anymore anyone anything apartment
apology apparently appear appearance apply appointed approach aquarium arch architect areas argued arises army
arrange arrest arriving article artillery artist artwork aspect assignment assure astonished astronomy attack
attempt attitude attributes auction audience authentic authority auto average avoid awake awarded awarding
backwards bank basically battle beach beads beaten beer behaviors believe beneficial beyond bigger billion bills
bits bitter blade block boiled bone boots border borrowed botanical bottle boundaries bounded bows brain branded
breathed breathing brighter broadcast broader bubble budget buffalo building bundle burning burns button cables
calculated calm camera candidates capture care careful carried carrier cartoons case cast castle casual catch
category cells ceramics certainly chains chair chance character charm chart checked chest chicken chose cinema
circular claws clay clearance clever click climbed climbing climbs clips close coat coin collectors college
collision colony commented commenting companies comparing compiled completing complexity composers compound
concept conception concern concerts conclude confident connecting conscious consent consider consist consume
contained contains continents continual continue contract contractor contrary controls convenient convince cool
coral corridors couple courtyard cousins cover creates creator creature cricket cried criticism crying crystals
cubic cups curiosity currently curriculum curtain curves custom cuts cutting dams danced dancer dances dark data
deal debates debt debuted define definitely delicate delighted delivers dental depended describing designs
detailed determined developing develops device diagram dialogue diameter diamond diary digits dine direct
directory disc discharge discuss disliked dismiss distant doctor document doing dollars dome domestic door doubt
download dragging drama dress dynamic earn eastern economical edit editions educate efforts elect election
electrical else emotional empire employer encounters encourage endless energy engage enjoy enlarged entered
episodes equation equipped error establish eternal evenings exactly examined example excellent exercise expand
explain explore expression extreme fabric factories families fantasy farm farther fascinated fastest favorable
fears feature federal fellow female ferry fertile fetch fiber fictional field file fills filming films finding
fingers finishers fire fitness flies flight floods flow fluid follow folly fool forehead foreign forgotten fork
formally formed formerly forms fortress fortune founded founder fountains frames free frequently friendly fronts
fuel fulfill funny galleries games generous gift golden gone goodness gradual grandson greater hands happiness
harbor hatch hearing heaven heel heights helmet helping helpless hills hint history holders hole hopes hoping
horns housing however humor idea ideal identifies ignore image imaginary importance imported incredible
industries informal inside inspiring instructor instrument internally intimate involve issues items jack jewel
join journalist journey knew knowing lamp lantern largely larger laser laughed launch lawn laws layer lazy
leading legend level library license lift lighthouse limit line linked lists logical logo longer looked looking
loop love lower lunar machinery magic mail major manage mankind manner marathon marriages massive master match
mate mayor meal meaningful measure meat media medicine meeting melting mention methods mile miniature minority
mirror missing mist mistake mixture moderate modern moment monkey moth mountains moves museums musician myself
naming native natural naval nearer nearly nephew newer newly nine nineteenth nobody notice nowadays observed
obtained occasion occasional occupation occur officer officially older ones oneself online open operating oppose
optimal optional origin ornamental orphan ourselves output pace page painters paintings panic parcel parents
parking parted partly partners patient patterns pause peaks pencil perform permanent pictures pile pioneers plain
plane plate play pleasure plentiful pocket point ponds popularity portable postal posters pottery praise prayers
precisely precision prefer prepares pretty prevention priest prince princess private production professor project
protected providing published publishers publishing pupil pure putting quantity quarter queens quest quick quote
rail rain rainfall random range rarely ratio rats rays readings ready realizes reason receive recently receptions
recognized recommend records reflection regional regions regularly regulate relay reliable remains remake remote
renewal replaced replacing represent republic requests requires residences resource respected respective rested
resting restoring revive reward riches risk rock rockets rocky rode role rolling rooms root rotation rounded
rubbed rubbing rude runner sage salary salt sample sand sandstone sandy sang satisfy sauce saved scale scenic
scholar science scientist score script sculpture search secret secure security seeing selected selecting self
separately separation service session shades shaking shapes share sharp shear shell ships shone shopping shortage
shout shower signal signature signify silence similar simple simply simulation sisters situations size sketch
soil sometime soon sounded sounds soundtrack spacecraft speaking specialty spectacle spells spinning spiral
spoiled spotted spreading sprung squares stability staircase stake standards stared statement stayed steady steal
steel sticking stillness stocks stood stops store storm strange street strength strengthen strike strings
stronger stuck student studio studying style subjects submit suburban sudden suit sunset superior supplement
supplies supporting suppose surfaces surround survey survived swam swimmer switch symmetry tables tape tasks
tastes teachers technology teenage telegraph television tend texts thanks thermal thickness thirds thirteen
thirty thousands throat throughout thumb tied tiles till told tongues tonight touches tough toward tower toys
tractor trail transit translate transports traveled treasure treatment trends trial tricks trio trips troubles
tuned tuning turns twelve twin ultimate umbrella underneath understand undertake union units unless unlikely
unusually upcoming update upstairs upstream usage useless using utility vacation value vapor variable variant
variations varieties vary vehicle video view vines vineyards vocabulary volumes vulnerable waiting wake wall
warming warned waste waterfall wealth websites weekly welcome wetlands wheel whereas wines wonder worked works
worldly worlds worn wrist yourself youth
"""
UNSEEN_WORDS = """
abnormal acoustic advisory advocate alert applause attendance attendants attitudes beating becoming bikes blind
boxing budgets buyers cabin calling camping captured careers carefully cave caves ceremonial channel charged
charted check citizen classes clusters coated colours commander common complement connection consult consulting
convincing corporate cosmic costumes countless coverage creative dashed density deposited discrete disturb
doubled drag drove editorial editors embassy estate evacuated existing facilities festivals fifteen fireplace
fisherman flour folding foolish frame freestyle gentleman getting gigantic glance glowing granting grove
guidelines hairs happened hearted hiring huge huts impatient inability includes incoming increased indicated
informally inquiries inscribed insurance integrated kindly knee lands learners leather leaving lectures liberated
lice lyrics managing marsh matching mechanics medal metallic minds mine miracle moist monk moss motors navigation
necessity nice observe offer original outlet palms partnered peer pension permission persons poets points
politics port portray positioned possessed practice premium priced priorities programme prominent pronounced
properties purchasing purpose quarry reaching readily region regulatory relieve renovated reserved reservoirs
resident responded restless restrain results reunited rigorous ruined rural rushing scaled scarce scholars shift
simplicity sixteen sixty soldier solely spear states stepped stole string surely suspects sweeping talent terms
therapy throwing totally troubled trousers tubes vectors versions viewer visually vital volunteers voted weekend
writers yards
"""
