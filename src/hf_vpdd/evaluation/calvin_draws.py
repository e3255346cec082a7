"""What `calvin_chains.draw_chains` returns for each of the 192 scenes, in order: a word is a chain, a letter a task's
place in `TASKS` (0..9, a..x). Kept because drawing takes a minute; the tests draw some again, and compare all with the
benchmark's own."""

DRAWN = tuple(
    """\
etc1g grsev c2npe v7ceg 9egqc te2cn
8evjq 2jpev 7ctjp 8ejpx e7npc 0cgrs
vbmrc 4cmrv t6cgr bgpce egptx 1egpt
7enqg c7egp 0ckre ec0kp npct0 1nptc
cet0m e7mpv 6tgpe e0vmr v6ekp t4gpk
ev1kq et7cx 6cten vekq6 texip kp1ec
2jpte vce8m jpc4h etjqa 5emrt taejq
9jpec ce2vx nrsev 8enpx c8tej te3np
kpve4 krscj 5echq 5ecvm 5etkp vbemp
jptae cbetj et5jp hptc4 t2jre aehpj
e9ctn 3tejp et3hr hrst2 e9jqt e3xhq
ehqca 5ecxv eatcm c5etx 5emqv tcakp
gpcv2 9tcgp 2gpvc 0fcjp jq1fv cgptf
c8tjp t8nqj 2npvj fnpgr cjpxt cft3g
bckqf btmrc fc7gr 6gpch mqf0c ft6gr
f1gpn f1ctg np0vx 7gqvi 1nqco 1vnrc
v4fmr gpafv gpkrf kqv5m 1vgrf vmp1f
vc0np 6txcf kqtf6 0vfcg c0tnq kp7xf
fc5vh 9ctfm tbjpf t8jqf 5jqcf c3jrt
2npxf cft2j 9cvjq 9vnrs v3jqn fv3np
4ctfh kp4ft 5fvch ct4mq cvfbh c5tmq
4tfhp hqmrv cmpt9 8vhqj vc4fm c4mqt
hqcvf 9vcfj tcjql f8hpj v8hqj v8hqf
tf4hp fmpvc xhqvo hrvsg 5vhrf xvcfk
7tejq 3tjpd 1npdg vd3jp d8jpt enqt9
3etgr jpvdn 2dgrt 6dnpj v3egr e3jrt
kpteb mpev1 egrst vgpex td0em 5evkp
ekpt7 egpdt vednp exvkp edvxn e6krv
7vmpe avmpe e7mrv ve0dm evgqd 5mrde
dvkp7 7dkpt 0exnq 1nrsd 6nrde td0kp
3emqv d5tej dt3jp tebjq vaemq edatj
ev3hq hrs9j de3vn ehqd2 v2hpe e2jqd
ampde bhrvs vexdk bthrd evdmq v5edx
vebjq 8tejr 9tdem 9jrtd dhpev mpe8d
8tejq dv2ej vnped vedjp 8etxd npd9v
tdehp kpedv vdebm etdhr amptk deatx
jq6dt gptd9 0tgqn gqtd8 dvf8g dtgqi
f1jpt 8fjrs 2grdv jrfs2 gpf2t 8tdfn
kq1tg fdvbg dfbmp ampxf 7dfvg 6gqfd
vxfkp krfs2 dvnqo dv6fg t6xdf vf6gp
1dtmp 4gpvf vgpdf d7tkp dgp5t
7dkpv 6gpft 7vnqd 0dgpv 0tnrd
dtbjp jpv4h bjqfd mpv2d 2fvmp
hqvdi tfhp3 v8dfj hpv2j 2xhqd
bvdxk btmqh vbxhp bdkqf 4mpdk
tdbjq 4mpft v4dfm fd3vm dhqt3
9xlpd xlpdv dxhpl 2txdh dhptj
xkpdt vkpd5 bxdhq 4fdhr akptd
2uecj 1vegr 8ejrv ev6cn vjrsc
7jrsu eujq1 npce8 jpnrc 7npcv
cbmrv c0vkp ev6mp 4cgpe ec4mq
0nrve 0ecxu nrs7m npe0g e7unp
gresa ebgpu 7vkpm 0mpkr 4ekpc
kpe0v e6cnp 7cgpe 0krcv vc6eg
4ejpu vcjrs evjpa vebjq ubmpe
3cjph 3cehq venqj e8nru u9ecj
eakpc acexh acevh cempv krceu
emrsv hpev8 ceuam u2mrh buecj
hrs9g e8cxl ev8cn ceunq u8hrs
cve5x vebck e4mpu vbckp eu5cx
jpvcf 3cjrs fjrs2 gpfu8 ucf3j
9grus npcu6 fgrs3 fnp3g npf1g
mq1co agrcs 0grfu grsbf gpfcu
0xnpi u1gqc 0cgpv cv7gq 6gquf
mqukr gq4uf kqc0l v4gqf 1mrfk
fcu1g u6xcf c6xvf ukqlr 7xviq
jrfs4 vjp4f 4fujp u4chp 9umpf
xlpfv 2cuhp 2xnqc fv9jp npvf3
bvxcf 5kqum akqvf chrs6 avcxh
bfjpv hqvfj 9jruc hp3cf 3umph
c3xnq fu3hr uc9nr 8hpvf fc2np
vamqf bckqu 4mpfh 4fmpu uhpcb
eugrd enp3j e2ujp v1ejq 9grun
vgrde dvjp0 jrsu0 d9egr djpu1
bvgrk bekpg d4gre eagpd vemp0
6dnre 6krev dnpe7 evxiq d6gpe
ue7dg de4mp d6gru dbkpe dkp1g
1dvex d0vek evd1g e0xvi 1duex
emqd8 ajrue ve5jq 4mrud 3mrhp
8hpeu e2dnq ehrs6 ed2un ehpxl
deump dekpv aexdo uhpe4 4hrde
9devh 2ejqd e2dmr ve9jp uedam
edv2h vd8jp 3udeh 2exnp deuxl
mpvde edhqu aekrs vd5ex advmp
vd9gp d0gpf jqdu7 jp7xf d7fvj
u0grf 6djpf dv2fn 1dvjp v2jql
d0ugp dv6mq fmpd0 6fudm gqbuf
6kqug kqlru udfgp krusd 6xkqu
v0gqi dumqo v7grf f0grv v6dgq
fdv1g 1fvnp f6nrs xnpdu 1nrsg
djrfv fbvdm ahpmr jpavd v2jrh
hrfs7 3jqdu 9fujp u9xdl 9xhpu
4dvfm afhrd fhpu5 hrsd6 5vxoq
ajrsf 5udjq 3jqdv 4jrvf du4mr
ud8fj dhqf8 npd2u d8uxh 3xvlp
d4hpm bdxhq krsv8 axudo ampfv
wc7gr ec3tg etcjr 2etcj jrst2
7cegr e1gpn wc9ej wc2gr 1ejpc
wc7mr mrst7 t0mrc cekqa cwkpa
0ewgq 6wgpn enpw7 c0gpt egpck
7mpwc ew4mq emqcw ecgqi 1emrc
7cenr t7ekp 6cetg cenp1 e1kpt
c3tmr t8jrs c3etm 2mpce c8ewm
cehpt tnrec 8nres npt2e cte2j
achpt wkrs8 wcebx 5krsm ecmqh
4mpcn 8mrse emptc mrtsb tc8jr
ec3xn e9cxn 2cwjp 9ecjq hrsw1
taemq ewbcm cekpm hrcwe exhqi
grs0f t9fcj f7grt c8nqt 1cwfj
w8cgr nqc6g gq2nr gp8xn 6fgpn
wcmq0 f5wck bfcmr w6fgp tbcmp
7wxiq f7nrt nqt1f wxipc ct0kr
7tfmr kpfac fgrs0 1fwmp fbkpm
xkqwf c7xwi 1txcn krsc3 t0kqf
fwjpb mrsaf wmrsa 9cfwj 5mrsw
tc9xh chq3i chpwx 9nqwo cxhqw
5fkpc bfwkp krcsb xtcoq kpwc5
mpf8h mrfth hp5cw mptc9 cjqfb
c8xfn 8xcft hrs7c 2jqfh c8nqj
cbkpw w5hqf c5tkq 4cfwm 5xcfw
d6egq jpdt7 7gres 8dtgr 0tdej
egpd2 etgq3 dnp7w wedjr d2weg
5gptk d4gpw 7mrtd mpt1d 1mrek
dt6gp 7wkpg et6xd 7texk e7dnp
gpwex aedgq 4tmrs e1wgq bewdm
we0nr etnq6 np1ew e1dtk e1xwn
e2tjp 4jpdw empt3 waedm ewjql
t8dej 9dexn 8ejpw wehrs ehpxl
ted5k w4ehq te4dk dwkre dtbex
9dwem tde9m tjp4e 3etmr 2wemr
edhqt w9ejp etnqd npetj e8dwh
dthpe tdhre kpead 4mpek 5wkpe
wd0fg 0jqwd dw7gq 6jrft 6fgpt
gq9wi 7jptd 7wdgr d1grw dgp8x
mpxfw 0fgrk kpbdg kqw7d kp7dt
6fkpt wkpf1 d0npg 7dgpw 1dgpw
mqt0o mpf6t dkpw5 mpwdx gptd5
7xdtk wfnp7 6wgqi 7dgqi nrsw1
9tfjr d8jqt dbjpw mrfts hpdt8
jpfdk hpdxw xfdnp f2wdn d8jqw
dbkqw thq5f 4fhpt bxhqt 5mqtf
8wdjp td5hp dt3jp 9fmrd ftd5h
dhpxw w9xdl jpdfh xnqft wd9hp
xfkpd t4mqf t4kqf tdfah wxdhp
u3ceg gpeu2 3jrcu cu3ej jrseu
enp8j 9cejp e0jpu wjpnr 3egpc
egp5c cgpbk mpc1u 7mpew eckp4
0wexn wnpcg unrs5 ew0np 0npug
empc0 cmp7e 0wemr 4wmpe c1wmp
e1cug eucnr ce7xu krws9 c6ewx
webjp ucbjp ecwaj cmrsh 4wceh
9ecxu wce2j ewxch 9exnp wnpc8
4wekp akpew ampwe 4ecxw 4uemq
9uhpj hpe9c bhpej hpce2 e3hqu
jpuck hpu3e 9uhrs ewhqc 3hrsw
ahrse 5wemp wckpb mpewh ubcem
2ufcj cwf6n cnpu3 jq6fw wc1gp
f6ugr grfus cjpfw 8ucfg fwcgp
w5gqi w1cgp gqf5c 0gpcu uc4fk
6fuck w6xci 0gqwf cxkqf nqu1g
6umrs w0kpm wf5cm mqwc0 bcmpu
w7cxf 0kpxu 0fcun 7fucn 6fwkr
fu2jp bmruc bjrch 2jqfu jpc4f
xunpc nqf9w 9npwc nrcfw wxlpf
acwxo awcxf wfcah krsaf kqfuc
jqafc 4umph u5mrf 9mqfh cfu5j
8hrsj xclpn 2cunp c3jql fhp9u
hrfws cmpfu bxwco bckru bckpm
dugp9 np2ed np9ug 2ewjp ew0dg
eu8jq udjrn 2ujre 3gped de2ug
mrdes weakp amred dmp1u e4kqw
ewd6g 0wexi 6krwe 6dnpw e0gqw
7wdgp eu0gq 6mrdk bdmpe we1gr
0edkr 7nrwe eugqd 7dkrs d7ukr
mpwdn de8jp aejpd u8dmr hpdbm
wd2ex 3jpwe d3npj ed8jp 9denq
hpexd euxoq wed5m ewadx 4dukr
u4dem ud2jr 2ewdj bjped 9mpdw
3exlq dhrew 3wenq e3jpn 8dweh
wakpm w5mpe ud4hp dhres wkrds
fwd3j nqw1o d0wgr u3nqg 9gpxd
u9dfj dgq3w 0ugrd gq2fw 3dufn
budgq dgqfu u4kqf 4wfdg 7udgq
w6dfg 7gpdu dunp6 u6kqd f7kpd
6gpxo f6mpd wagqf grusa w1fdm
d7ukq nqf1d w7xnp xipfn npuf6
8djrs 9fhpu fuamr dbmru jpbud
wxlqh dnq9f dnq8j 2whqi whpd9
d4kpx dkqf4 xhpdw dkpaw d4kpf
mpxuf d2jqh duf2j 8dwjq dafuj
wnp2d 3udhp w2jqf 2dhpu 3npfw
5wxfd dxwoq krs9m kqlrf udmph
""".splitlines()
)
